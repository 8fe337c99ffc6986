"""A ServerApp over ports in memory: it pushes messages, pulls replies, dies at any call, and is resumed.

It keeps to what a Grid keeps to: a list of messages is written once under the next free number, then sent; a
list that an earlier process left unsent is sent first. A device has one message at a time. What becomes of
each message is noted, for the judge of the schedule.
"""

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import xxhash
from msgspec import Struct

from cloud_functions.initiator import _perform
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import LIVING, Run, RunState
from fedgrass.federation.statistics.statistics_answer import from_text
from fedgrass.federation.task_messages.round_messages import (
    BUSY,
    MessageGroup,
    RoundMessages,
    encode_messages,
)
from fedgrass.federation.weights import checksum, sha256
from tests.chaos.in_memory.disturbed_ports import Disturbed, Disturber, InjectedError
from tests.fakes.memory_cloud import Crash

if TYPE_CHECKING:
    from tests.chaos.in_memory.message_simulation import MessageSimulation

STEPS = 3  # of the app: each is a message to every device, and its replies
TRIES = 4  # at a device that is busy with another run
TTLS = (60.0, 200.0, 3600.0)  # seconds
LARGEST = 1024**2  # bytes of a reply
_FINAL = frozenset({Participation.DECLINED, Participation.FAILED, Participation.REFUSED, Participation.LATE})


class Outcome(Struct, frozen=True):
    """What became of one message: the bytes of its reply, or an error."""

    reply: bytes = b""
    error: str = ""


class Ended(Exception):
    """The run has ended, and its ServerApp with it."""


class ServerAppModel:
    """The processes of one run's ServerApp, one after the other; a stalled one may still wake up.

    Args:
        world: the simulation.
        run: name of the run.
        dice: draws what the app does.
    """

    def __init__(self, world: "MessageSimulation", run: str, dice: random.Random) -> None:
        self._world, self.run, self._dice = world, run, dice
        self.disturber = Disturber(dice, lambda: None, lambda: None)
        self._bucket: Any = Disturbed(world.bucket, self.disturber)
        self._rounds: Any = Disturbed(world.rounds, self.disturber)
        self.outcomes: dict[tuple[int, str], Outcome] = {}  # by round and device, of the latest process
        self.sent: dict[tuple[int, str], str] = {}  # by round and device: the SHA-256 of the content
        self.over = ""  # how the app ended
        self.lives = 0
        self.adopted = 0  # lists of an earlier process that were sent
        self._active: set[int] = set()

    # ------------------------------------------------------------ processes
    def begin(self) -> None:
        """Start a process of the app."""
        if not self.over:
            self.lives += 1
            self._continue(self.lives, self._program(self.lives))

    def _continue(self, life: int, program: Iterator[float]) -> None:
        """Run a process up to its next pause; a process that dies is resumed some time later."""
        if life in self._active:  # it waits for an initiator that is stalled
            self._world.clock.after(1, lambda: self._continue(life, program))
            return
        self._active.add(life)
        try:
            pause = next(program, None)
        except (Crash, InjectedError):
            self._world.clock.after(self._dice.choice([5, 60, 700]), self.begin)
            return
        except Ended as ended:
            if str(ended).startswith(RunState.FAILED):  # the operator resumes it
                self._world.clock.after(60, self.begin)
            else:
                self.over = str(ended)
            return
        finally:
            self._active.discard(life)
        if pause is None:
            return
        if self._world.happens(self._world.wrong.chances.stalled) and life == self.lives:
            # The machine sleeps; the operator takes the process for dead and resumes the run elsewhere.
            self._world.clock.after(self._dice.choice([5, 60]), self.begin)
            pause += self._dice.choice([30, 1000])
        self._world.clock.after(pause, lambda: self._continue(life, program))

    def _ask(self, action: str, **event: object) -> Mapping[str, Any]:
        """Invoke the initiator; botocore repeats an invocation that failed."""
        for _ in range(3):
            try:
                return _perform(self._world.initiator, {"action": action, "run": self.run, **event})
            except (Crash, InjectedError):
                continue
        message = f"injected: the initiator failed at {action}"
        raise InjectedError(message)

    def _known_run(self) -> Run:
        """Return the run's row. Raises Ended if the run has ended, InjectedError if the row is lost."""
        run: Run | None = self._rounds.run(self.run)
        if run is None:
            message = "injected: there is no such run"
            raise InjectedError(message)
        if run.state not in LIVING:
            message = f"{run.state}: {run.reason}"
            raise Ended(message)
        return run

    # ------------------------------------------------------------ the app
    def _program(self, life: int) -> Iterator[float]:
        """Start or resume the run, take its steps, and end it; yields the seconds to wait."""
        run: Run | None = self._rounds.run(self.run)
        if run is None:
            self._ask("start", settings=msgspec.to_builtins(self._world.settings))
        elif run.state is RunState.FAILED:
            self._ask("retry", id=f"retry {life}")
        self._known_run()
        for step in range(self._finished_steps(), STEPS):
            yield from self._step(life, step)
            self._bucket.write(object_keys.server_app(self.run), str(step + 1).encode())
            if self._world.happens(self._world.wrong.chances.error * 4):
                self._ask("finish", id=f"failed {life}", failed="the strategy raised ValueError")
                raise Crash
        self._ask("finish", id=f"finish {life}")
        self._known_run()

    def _finished_steps(self) -> int:
        try:
            return int(self._bucket.read(object_keys.server_app(self.run), LARGEST))
        except KeyError:
            return 0

    def _step(self, life: int, step: int) -> Iterator[float]:
        """Send every device a message, and wait until each has a reply or an error."""
        devices: list[str] = []
        while not devices:
            devices = list(self._ask("devices").get("devices", []))
            yield 5 if devices else 60
            self._known_run()
        self._dice.shuffle(devices)
        tries = dict.fromkeys(devices, 0)
        waiting, open_rounds = list(devices), set[int]()
        while waiting or open_rounds:
            if waiting and len(open_rounds) < 3:
                some = waiting[: self._dice.randint(1, len(waiting))]
                waiting = waiting[len(some) :]
                open_rounds.add((yield from self._push(life, f"{step} {min(tries[d] for d in some)}", some)))
            yield self._dice.uniform(1, 20)
            for number in sorted(open_rounds):
                if self._pull(number):
                    open_rounds.discard(number)
                    for device in [device for at, device in self.outcomes if at == number]:
                        tries[device] += 1
                        if self.outcomes[number, device].error.startswith(BUSY) and tries[device] < TRIES:
                            waiting.append(device)
            self._known_run()

    def _push(self, life: int, what: str, devices: list[str]) -> Iterator[float]:
        """Send devices their messages in a round; return its number."""
        groups = self._groups(life, what, devices)
        data = encode_messages(RoundMessages(groups=groups))
        while True:
            number = self._known_run().round + 1
            listed = self._bucket.write_once(object_keys.messages(self.run, number), data)
            answer = self._ask("send", number=number, sha256=sha256(listed))
            if "refused" in answer:
                self._world.note_refusal(answer["refused"])
                yield self._dice.uniform(5, 60)
            elif listed != data:  # an earlier process died before it sent them
                self.adopted += 1
            else:
                break
        for group in groups:
            for device in group.devices:
                self.sent[number, device] = group.sha256
        return number

    def _groups(self, life: int, what: str, devices: list[str]) -> tuple[MessageGroup, ...]:
        """Put one or two contents into the bucket; return the messages for the devices."""
        cut = self._dice.randint(0, len(devices) - 1)
        made = []
        for part, some in enumerate(filter(None, (devices[:cut], devices[cut:]))):
            content = f"{self.run} life {life} step {what} part {part} {self._dice.random()}".encode()
            key = object_keys.content(self.run, sha256(content))
            self._bucket.write_once(key, content)
            header = MessageHeader(
                type=self._dice.choice(["train", "query.histogram"]),
                ttl=self._dice.choice(TTLS),
                created_at=self._world.clock.now / 1000,
            )
            made.append(
                MessageGroup(
                    header=header, sha256=sha256(content), bytes=len(content), holds=9, devices=tuple(some)
                )
            )
        return tuple(made)

    # ------------------------------------------------------------ replies
    def _pull(self, number: int) -> bool:
        """Note what became of a round's messages; return whether each has a reply or an error."""
        round_: Round | None = self._rounds.round(self.run, number, 1)
        mine = [device for at, device in self.sent if at == number]
        if round_ is None:
            for device in mine:
                self.outcomes.setdefault((number, device), Outcome(error="the row of its round is lost"))
            return True
        ended = round_.state in {State.CLOSED, State.ABANDONED}
        parts = {part.device: part for part in self._rounds.participants(round_)}
        for device in mine:
            if (number, device) in self.outcomes:
                continue
            found = self._outcome(round_, parts.get(device), ended=ended)
            if found:
                self.outcomes[number, device] = found
        return all((number, device) in self.outcomes for device in mine)

    def _outcome(self, round_: Round, part: Participant | None, *, ended: bool) -> Outcome | None:
        """Return what became of a message; None if that is not known yet."""
        if part and part.state is Participation.REPLIED:
            return self._reply(round_, part)
        if part and part.state in _FINAL:
            return Outcome(error=part.reason or f"the device is {part.state}")
        if ended:
            return Outcome(error=f"{part.state if part else 'never asked'}; the round {round_.state}")
        return None

    def _reply(self, round_: Round, part: Participant) -> Outcome:
        """Return a reply, checked against the checksum that was counted."""
        if part.answer:
            data = from_text(part.answer)
            found = xxhash.xxh3_128_hexdigest(data)
        else:
            key = object_keys.update(part.device, self.run, round_.number, 1)
            try:
                data = self._bucket.read(key, LARGEST)
                found = checksum(data)
            except KeyError:
                return Outcome(error=f"damaged: there is no {key}")
            except FedgrassError as error:
                return Outcome(error=f"damaged: {error}")
        return Outcome(data) if found == part.checksum else Outcome(error="damaged: another checksum")
