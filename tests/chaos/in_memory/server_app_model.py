"""A ServerApp over ports in memory, with the MessageExchange of `fedgrass flower run`.

It sends every device messages, step by step, and collects what becomes of them. It dies at any call, and is
resumed from what it kept after its last finished step; a process that is taken for dead may wake up again.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cloud_functions.initiator import _perform
from fedgrass.console.task_messages.content_files import MessagePart
from fedgrass.console.task_messages.exchange_ports import ExchangeFailed
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.console.task_messages.message_outcomes import Outcome
from fedgrass.console.task_messages.message_queue import Letter
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import LIVING, Run, RunState
from fedgrass.federation.task_messages.message_content import Record
from tests.chaos.in_memory.disturbed_ports import Disturbed, Disturber, InjectedError
from tests.fakes.flower_fleet import StreamedMemory
from tests.fakes.memory_cloud import Crash

if TYPE_CHECKING:
    from tests.chaos.in_memory.message_simulation import MessageSimulation

STEPS = 3  # of the app: each is a message or two to every device, and their outcomes
TTLS = (60.0, 200.0, 3600.0)  # seconds
_LARGEST = 1024  # bytes of what is kept between processes
_TYPES = ("train", "query.histogram")


class Kept(msgspec.Struct, frozen=True):
    """What a process leaves to the next one: the steps that are finished, and the last of their rounds."""

    steps: int = 0
    last: int = 0


class Sent(msgspec.Struct, frozen=True):
    """One message, and the round in which it was sent."""

    step: int
    device: str
    content: str  # SHA-256
    number: int


class Ended(Exception):
    """The run has ended, and its ServerApp with it."""


class ServerAppModel:
    """The processes of one run's ServerApp.

    Args:
        world: the simulation.
        run: name of the run.
        dice: draws what the app does.
    """

    def __init__(self, world: "MessageSimulation", run: str, dice: random.Random) -> None:
        self._world, self.name, self._dice = world, run, dice
        self.disturber = Disturber(dice, lambda: None, lambda: None)
        self.bucket: Any = StreamedMemory(Disturbed(world.bucket, self.disturber), lambda _: None)
        self._rounds: Any = Disturbed(world.rounds, self.disturber)
        # What became of the messages of each process, by the ids of the messages.
        self.outcomes: dict[int, dict[str, tuple[Sent, Outcome]]] = {}
        self.finished: dict[int, int] = {}  # by step: the process that finished it
        self.over = ""  # how the app ended
        self.lives = 0
        self.adopted = 0  # messages of an earlier process that were adopted
        self.unfinished = 0  # messages that a finished step has left without an outcome
        self.postponed = 0  # messages that are sent again, since their device was busy with the other run
        self.failures: list[str] = []  # why processes ended, except for those that died
        self._random_contents = dice.random() < 0.3  # of a strategy that sends others after a resume
        self._same_contents = dice.random() < 0.3  # an app that sends the same in each step
        self._active: set[int] = set()
        self._alive: set[int] = set()

    # ------------------------------------------------------------ processes
    def begin(self) -> None:
        """Start a process of the app."""
        if not self.over:
            self.lives += 1
            self._alive.add(self.lives)
            self._continue(self.lives, self._program(self.lives))

    def resume(self) -> None:
        """Start a process of an app that has ended, as `fedgrass flower resume` does."""
        self.over = ""
        if not self._alive:
            self.begin()

    def _continue(self, life: int, program: Iterator[float]) -> None:
        """Run a process up to its next pause; a process that dies is resumed some time later."""
        if life in self._active:  # it waits for an initiator that is stalled
            self._world.clock.after(1, lambda: self._continue(life, program))
            return
        self._active.add(life)
        try:
            pause = next(program, None)
        except Ended as ended:
            self._end(life, str(ended))
            return
        except (Crash, InjectedError):
            self._end(life)
            return
        except FedgrassError as error:
            self.failures.append(str(error))
            self._end(life)
            return
        finally:
            self._active.discard(life)
        if pause is None:
            self._end(life)
            return
        if self._world.happens(self._world.wrong.chances.stalled) and self._alive == {life}:
            # The machine sleeps; the operator takes the process for dead and resumes the run elsewhere.
            self._world.clock.after(self._dice.choice([5, 60]), self.begin)
            pause += self._dice.choice([30, 1000])
        self._world.clock.after(pause, lambda: self._continue(life, program))

    def _end(self, life: int, reason: str = "") -> None:
        """Note the end of a process; the operator resumes the run unless it is over or has another one."""
        self._alive.discard(life)
        if reason and not reason.startswith(RunState.FAILED):
            self.over = reason
        elif not self._alive:
            self._world.clock.after(self._dice.choice([5, 60, 700]), self.begin)

    # ------------------------------------------------------------ the access to the fleet
    def run(self, name: str) -> Run:
        """Return the run; see ``FleetRun``."""
        found: Run | None = self._rounds.run(name)
        if found is None:
            message = f"there is no run {name!r}"
            raise SettingsError(message)
        return found

    def message_devices(self, name: str) -> list[str]:
        """Return the devices; see ``FleetRun``."""
        return list(self._invoke("devices", name)["devices"])

    def send_messages(self, name: str, number: int, list_sha256: str) -> None:
        """Open a round; see ``FleetRun``."""
        self._invoke("send", name, number=number, sha256=list_sha256)

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        """Return a round; see ``FleetRun``."""
        found: Round | None = self._rounds.round(name, number, attempt)
        return found

    def participants(self, round_: Round) -> Sequence[Participant]:
        """Return the participants of a round; see ``FleetRun``."""
        return list(self._rounds.participants(round_))

    def _invoke(self, action: str, name: str, **event: object) -> Mapping[str, Any]:
        """Invoke the initiator; botocore repeats an invocation that failed."""
        for _ in range(3):
            try:
                result = _perform(self._world.initiator, {"action": action, "run": name, **event})
            except (Crash, InjectedError):
                continue
            if "refused" in result:
                self._world.note_refusal(result["refused"])
                raise SettingsError(result["refused"])
            return result
        message = f"the initiator failed at {action}"
        raise FedgrassError(message)

    def _check_living(self) -> None:
        """Raise Ended if the run has ended."""
        run = self.run(self.name)
        if run.state not in LIVING:
            message = f"{run.state}: {run.reason}"
            raise Ended(message)

    # ------------------------------------------------------------ the app
    def _program(self, life: int) -> Iterator[float]:
        """Start or resume the run, take its steps, and end it; yields the seconds to wait."""
        run: Run | None = self._rounds.run(self.name)
        if run is None:
            self._invoke("start", self.name, settings=msgspec.to_builtins(self._world.settings))
        elif run.state is RunState.FAILED:
            self._invoke("retry", self.name, id=f"retry {life}")
        self._check_living()
        process = _Process(self, life)
        exchange = MessageExchange(self, self.name, process, clock=self._seconds)
        kept, version = self._read_kept()
        exchange.adopt(range(kept.last + 1, exchange.last_number + 1))
        for step in range(kept.steps, STEPS):
            yield from self._step(exchange, process, step)
            kept = Kept(step + 1, exchange.last_number)
            version = self._keep(kept, version)
            self.finished[step] = life
            if self._world.happens(self._world.wrong.chances.error * 4):
                self._invoke(
                    "finish", self.name, id=f"failed {life}", failed="the strategy raised ValueError"
                )
                raise Crash
        self._invoke("finish", self.name, id=f"finish {life}")
        self._check_living()

    def _seconds(self) -> float:
        return self._world.clock.now / 1000

    def _read_kept(self) -> tuple[Kept, str | None]:
        try:
            data, version = self.bucket.read_version(object_keys.server_app(self.name), _LARGEST)
        except KeyError:
            return Kept(), None
        return msgspec.json.decode(data, type=Kept), version

    def _keep(self, kept: Kept, version: str | None) -> str:
        """Replace what is kept, unless another process has done so."""
        key = object_keys.server_app(self.name)
        if not self.bucket.write_over(key, msgspec.json.encode(kept), version):
            message = "another ServerApp has replaced the state"
            raise ExchangeFailed(message)
        return str(self.bucket.read_version(key, _LARGEST)[1])

    def _step(self, exchange: MessageExchange, process: "_Process", step: int) -> Iterator[float]:
        """Send every device a message or two, and wait until each has an outcome."""
        devices: list[str] = []
        while not devices:
            devices = exchange.devices()
            yield 5 if devices else 60
            self._check_living()
        twice = [device for device in devices if self._dice.random() < 0.2]
        ids = {
            self._push(exchange, process, step, device, part)
            for part, some in enumerate((devices, twice))
            for device in some
        }
        exchange.flush()
        while ids:
            yield self._dice.uniform(0.5, 20)
            self._check_living()
            for id_, outcome in exchange.collect(ids):
                process.outcomes[id_] = process.sent_as[id_], outcome
                ids.discard(id_)
            self.unfinished += sum(not exchange.knows(id_) for id_ in ids)

    def _push(self, exchange: MessageExchange, process: "_Process", step: int, device: str, part: int) -> str:
        salt = str(self._dice.random()) if self._random_contents else ""
        what = "" if self._same_contents else f"step {step} part {part + sum(map(ord, device)) % 2}"
        record = Record(name="config", kind="config", values={"what": f"{self.name} {what} {salt}"})
        content = exchange.store([MessagePart(record)])
        id_ = exchange.push(
            device,
            content,
            type=_TYPES[step % 2],
            group="" if self._same_contents else str(step),
            ttl=self._dice.choice(TTLS),
            created_at=self._seconds(),
        )
        process.sent_as[id_] = Sent(step, device, content.sha256, 0)
        return id_


class _Process:
    """The observer of one process: in which round each of its messages was sent."""

    def __init__(self, app: ServerAppModel, life: int) -> None:
        self._app = app
        self.sent_as: dict[str, Sent] = {}
        self.outcomes = app.outcomes.setdefault(life, {})

    def sent(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None:
        for letter in letters:
            self.sent_as[letter.id] = msgspec.structs.replace(self.sent_as[letter.id], number=number)
        self._app.adopted += adopted * len(letters)

    def stored(self, size: int) -> None:
        """Do nothing; see ``Observer``."""

    def seen(self, round_: Round) -> None:
        """Do nothing; see ``Observer``."""

    def collected(self, number: int, device: str, outcome: Outcome) -> None:
        """Do nothing; see ``Observer``."""

    def postponed(self, device: str, reason: str) -> None:  # noqa: ARG002 - the observer's signature
        self._app.postponed += 1

    def held_up(self, reason: str) -> None:
        """Do nothing; see ``Observer``."""
