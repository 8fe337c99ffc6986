"""Two runs with ServerApps at one fleet, under a schedule of faults: everything of ``Simulation``, and more.

The ServerApps die and are resumed; the devices die, decline, are silent or busy with the other run, and
answer a message twice. Each reply echoes the content of its message, so that the judge knows which message a
reply answers.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import xxhash

from cloud_functions.rounds import hellos
from fedgrass.console.task_messages.message_outcomes import Failure
from fedgrass.federation import messages, object_keys
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.errors import LostRace
from fedgrass.federation.messages import Announcement, Completion, Verdict
from fedgrass.federation.rounds import ENDED, Move, Participant, Participation, Round
from fedgrass.federation.runs import LIVING, RunState
from fedgrass.federation.statistics.statistics_answer import LARGEST_INLINE, to_text
from fedgrass.federation.task_messages.message_content import Record
from fedgrass.federation.task_messages.round_messages import BUSY
from fedgrass.federation.weights import checksum
from tests.chaos.in_memory.disturbed_ports import CALM
from tests.chaos.in_memory.server_app_model import Sent, ServerAppModel
from tests.chaos.in_memory.simulated_queue import Body
from tests.chaos.in_memory.simulation import (
    OPERATOR_SECONDS,
    START,
    SWEEP_SECONDS,
    TASK,
    Disturbances,
    Simulation,
    WatchedRounds,
    is_stated,
)
from tests.fakes.flower_fleet import file_of
from tests.fakes.memory_cloud import Crash

RUNS = ("run-1", "run-2")


class CountingRounds(WatchedRounds):
    """A table that records how often each reply was counted."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.counted: Counter[tuple[str, int, str]] = Counter()

    def count_reply(self, round_: Round, part: Participant, reply: Completion, received_at: int) -> None:
        super().count_reply(round_, part, reply, received_at)
        self.counted[round_.run, round_.number, part.device] += 1

    def move_together(self, round_: Round, moves: Sequence[Move]) -> None:
        super().move_together(round_, moves)
        for part, target, _ in moves:
            self.counted[round_.run, round_.number, part.device] += target is Participation.REPLIED


class MessageSimulation(Simulation):
    """Two runs with ServerApps under one schedule of faults.

    Args:
        seed: the seed of all random numbers.
        disturbances: the kinds of faults.
        settings: the settings of both runs.
        runs: how many of the runs take place.
    """

    rounds: CountingRounds

    def __init__(
        self, seed: int, disturbances: Disturbances, settings: dict[str, Any], runs: int = 2
    ) -> None:
        super().__init__(seed, disturbances, Scale(), {"mode": "server_app", **settings})
        self.rounds = CountingRounds()
        self.averager, self.initiator = self._worker(can_average=True), self._worker(can_average=False)
        self.apps = [
            ServerAppModel(self, run, random.Random(f"{run} {seed}"))  # noqa: S311 - repeatable
            for run in RUNS[:runs]
        ]
        self.refusals: Counter[str] = Counter()
        self._working: dict[str, tuple[str, int, int]] = {}  # by device: run, round, time of the announcement
        self._answers: dict[tuple[str, int, str], list[bytes]] = {}  # what a device has answered

    # ------------------------------------------------------------ the course of it
    def play(self) -> None:
        """Start the apps, inject faults for some time, then let the runs end without faults."""
        for name in self.names:
            self.devices.heartbeat(name, self.clock.now, TASK)
        self._plan_mishaps()
        self._set_chances(self.wrong)
        for app in self.apps:
            self.clock.after(self.dice.uniform(0, 60), app.begin)
        self._every(SWEEP_SECONDS, self._sweep)
        self._every(60, self._heartbeats)
        self.clock.run_until(START + self.wrong.seconds * 1000, most=8000)
        self._set_chances(Disturbances())
        self.wrong = Disturbances()
        self._every(OPERATOR_SECONDS, self._look_as_an_operator)
        for _ in range(60):
            self.clock.run_until(self.clock.now + 1_200_000, most=6000)
            if self.is_over():
                break
        self._judge_the_end()

    def _set_chances(self, wrong: Disturbances) -> None:
        self.disturber.chances, self.queue.twice = wrong.chances, wrong.twice
        for app in self.apps:
            app.disturber.chances = (
                CALM
                if wrong.chances is CALM
                else msgspec.structs.replace(wrong.chances, stale=0.0, stalled=0.0)
            )

    def is_over(self) -> bool:
        """Return whether both runs and all their rounds have ended."""
        runs = [self.rounds.run(app.name) for app in self.apps]
        rounds = self.rounds._rounds.values()
        return (
            all(app.over for app in self.apps)
            and all(run is not None and run.state not in LIVING for run in runs)
            and all(round_.state in ENDED for round_ in rounds)
            and not self.rounds.unsettled()
        )

    def happens(self, chance: float) -> bool:
        """Draw whether a fault happens."""
        return self._happens(chance)

    def note_refusal(self, reason: str) -> None:
        """Count why the initiator refused to send messages."""
        self.refusals[reason.partition(":")[0]] += 1

    # ------------------------------------------------------------ devices
    def hear(self, topic: str, payload: bytes) -> None:
        """Deliver what is published to a device."""
        if not topic.endswith("/announce"):
            return
        said, device = messages.decode_announce(payload), topic.split("/")[3]
        if isinstance(said, Verdict):
            self._done.pop((device, said.round, said.attempt, 0), None)
        elif isinstance(said, Announcement):
            self.clock.after(self.dice.uniform(0.1, 5), partial(self._work, device, said))

    def _work(self, device: str, work: Announcement) -> None:
        if work.work != "message" or work.message is None:
            self.problems.append(f"wrong: {device} was asked for {work.work!r} by a ServerApp's run")
            return
        if self.clock.now > work.announced_at + 10 * 3_600_000:
            return
        running, mine = self._working.get(device), (work.run, work.round, work.announced_at)
        if running == mine:
            return
        if running and running[0] != work.run:
            self._say_status(device, work, "declined", f"{BUSY}the run {running[0]}")
            return
        fate = self.dice.choice(["declined", "failed", "silent", "bad", "dies"]) if self._fails() else ""
        if fate in {"declined", "failed"}:
            self._say_status(device, work, fate, "a reason")
            return
        if fate == "silent":
            return
        if work.model_key not in self.bucket.objects:
            self._say_status(device, work, "failed", f"there is no {work.model_key}")
            return
        self._say_status(device, work, "accepted", "")
        self._working[device] = mine
        if fate == "dies":  # and starts its work again after its hello
            self.clock.after(self.dice.uniform(1, 60), partial(self._restart, device, mine))
            return
        seconds = self.dice.uniform(1, 60)
        self.clock.after(seconds, partial(self._answer, device, work, fate == "bad"))

    def _fails(self) -> bool:
        return self._happens(self.wrong.devices_fail)

    def _restart(self, device: str, work: tuple[str, int, int]) -> None:
        if self._working.get(device) == work:
            del self._working[device]
            self._greet(device)

    def _greet(self, device: str) -> None:
        try:
            hellos.answer_hello(self.initiator, device)
        except (Crash, Exception):  # noqa: BLE001 - Lambda delivers it again
            self.clock.after(30, partial(self._greet, device))

    def _say_hello(self) -> None:
        device = self.dice.choice(self.names)
        self._working.pop(device, None)
        self._greet(device)

    def _answer(self, device: str, work: Announcement, bad: bool) -> None:  # noqa: FBT001 - drawn
        if self._working.get(device) != (work.run, work.round, work.announced_at):
            return  # it was restarted, or has newer work
        del self._working[device]
        answered = self._answers.setdefault((work.run, work.round, device), [])
        echo = f"{work.run}/{work.round}/{device}/{work.model_sha256}"
        if self.dice.random() < 0.3:  # random numbers: another answer after a restart
            echo += f"/{len(answered)}"
        data = file_of([Record(name="metrics", kind="metrics", values={"echo": echo})], [])
        answered.append(data)
        inline = len(data) <= LARGEST_INLINE and self.dice.random() < 0.5
        if not inline:
            self.bucket.write(object_keys.update(device, work.run, work.round, work.attempt), data)
        found = xxhash.xxh3_128_hexdigest(data) if inline else checksum(data)
        completion = Completion(
            run=work.run,
            round=work.round,
            attempt=work.attempt,
            round_id=messages.round_id(work.run, work.round, work.attempt),
            announced_at=work.announced_at,
            bytes=0 if inline else len(data),
            checksum="1" * 32 if bad else found,
            examples=self.dice.randint(1, 9),
            metrics={},
            train_metrics={"loss": 0.25},
            answer=to_text(data) if inline else "",
        )
        self._repeat(device, messages.encode(completion), 6)

    # ------------------------------------------------------------ operators
    def _ask(self, event: Body, tries: int) -> None:
        try:
            super()._ask(event, tries)
        except LostRace as error:
            self.problems.append(f"{event['action']}: LostRace: {error}")

    def _act_at_random(self) -> None:
        rare = self.dice.random() < 0.1
        action = self.dice.choice(
            ["cancel", "next", "start"] if rare else ["pause", "resume", "resume", "retry", "repair"]
        )
        self._actions += 1
        run = self.dice.choice(self.apps).name
        event = {"action": action, "run": run, "id": f"click-{self._actions}"}
        if action == "start":
            event["settings"] = msgspec.to_builtins(self.settings)
        self._ask(event, tries=3)
        if self.dice.random() < 0.4:  # it is delivered twice
            self.clock.after(self.dice.choice([0, 20, 3000]), partial(self._ask, event, 3))

    def _look_as_an_operator(self) -> None:
        """Do what the runs' state requires of an operator, and nothing else."""
        if self._redrives:
            self.queue.redrive()
        for app in self.apps:
            run = self.rounds.run(app.name)
            lost = run is not None and any(
                self.rounds.round(run.name, number, 1) is None for number in range(1, run.round + 1)
            )
            told = bool(app.failures) and "`fedgrass run repair" in app.failures[-1]
            if run is None or lost or told or (run.state is RunState.PAUSED and run.reason):
                for _ in range(4):  # the refusal states what to do
                    self._ask({"action": "repair", "run": app.name}, 1)
                run = self.rounds.run(app.name)
            if run and run.state is RunState.PAUSED:
                self._ask({"action": "resume", "run": app.name}, 1)
            elif run and run.state in LIVING and app.over:  # the table was restored to a time before the end
                app.resume()
        if self.rounds.unsettled():
            for app in self.apps:
                self._ask({"action": "repair", "run": app.name}, 1)

    # ------------------------------------------------------------ the judge
    def _judge_the_end(self) -> None:
        self._judge_rounds()
        for app in self.apps:
            self._judge_outcomes(app)
            run = self.rounds.run(app.name)
            if not app.over or run is None or run.state in LIVING:
                stands = (
                    f"{run.state} {run.reason} at {run.round}, published {run.published}" if run else "gone"
                )
                self.problems.append(f"stuck: {app.name} is {stands}; its app ended: {app.over!r}")
            elif not run.reason:
                self.problems.append(f"stuck: {app.name} is {run.state} for no reason")
            elif run.state is RunState.FAILED:
                self.problems.append(f"stuck: {app.name} is FAILED: {run.reason}")
        for (run_name, number, device), times in self.rounds.counted.items():
            if times > 1 and not self._restored:
                self.problems.append(
                    f"twice: the reply of {device} to {run_name}/{number} was counted {times} times"
                )
        for letter in self.queue.all_letters:
            if not is_stated(letter.reasons, self._lost, averagers_die=self._averagers_die):
                self.problems.append(f"letter: {str(letter.body)[:100]}: {letter.reasons[-1]}")

    def _judge_rounds(self) -> None:
        for round_ in list(self.rounds._rounds.values()):
            where = f"{round_.run}/{round_.number}"
            parts = list(self.rounds.participants(round_))
            states = Counter(part.state for part in parts)
            if round_.state not in ENDED:
                self.problems.append(f"stuck: round {where} is left {round_.state}")
            if round_.replied != (replied := states[Participation.REPLIED]):
                self.problems.append(
                    f"twice: {where} has {round_.replied} replies, {replied} devices replied"
                )
            if round_.attempt != 1:
                self.problems.append(f"wrong: {where} was retried")
            for part in parts:
                if part.state is Participation.REPLIED and not self._is_answer(round_, part):
                    self.problems.append(f"wrong: {where} has a reply that {part.device} has not sent")

    def _is_answer(self, round_: Round, part: Participant) -> bool:
        """Return whether a device has sent the reply with the checksum of a participant's row."""
        sent = self._answers.get((round_.run, round_.number, part.device), [])
        known = {checksum(data) for data in sent} | {xxhash.xxh3_128_hexdigest(data) for data in sent}
        return part.checksum in known | {"1" * 32}

    def _judge_outcomes(self, app: ServerAppModel) -> None:
        """Check that each message has ended in the reply to itself, or in an error with a reason."""
        used: dict[tuple[int, str], int] = {}  # by round and device: the step that its reply is used in
        for life, outcomes in app.outcomes.items():
            for sent, outcome in outcomes.values():
                where = f"{app.name}/{sent.number} of {sent.device}"
                if isinstance(outcome, Failure):
                    if not str(outcome):
                        self.problems.append(f"wrong: {where} has neither a reply nor a reason")
                    self._judge_failure(app, sent, outcome)
                    continue
                echo = str(outcome.records[0].values["echo"])
                if not echo.startswith(f"{app.name}/{sent.number}/{sent.device}/{sent.content}"):
                    self.problems.append(f"wrong: {where} has the reply to another message: {echo}")
                if self.rounds.counted[app.name, sent.number, sent.device] != 1 and not self._restored:
                    self.problems.append(f"lost: {where} was collected and is not counted")
                if app.finished.get(sent.step) != life:
                    continue  # the process died before the step was finished
                if (before := used.get((sent.number, sent.device))) is not None:
                    self.problems.append(f"twice: {where} is used in the steps {before} and {sent.step}")
                used[sent.number, sent.device] = sent.step
        if app.unfinished:
            self.problems.append(
                f"lost: {app.unfinished} messages of {app.name} are unknown without an outcome"
            )

    def _judge_failure(self, app: ServerAppModel, sent: Sent, failure: Failure) -> None:
        """Check that a counted reply did not become a failure without a fault that explains it."""
        counted = self.rounds.counted[app.name, sent.number, sent.device]
        if not counted or failure.kind != "damaged" or self._restored:
            return
        answers = self._answers.get((app.name, sent.number, sent.device), [])
        lost = object_keys.update(sent.device, app.name, sent.number, 1) in self._lost
        round_ = self.rounds.round(app.name, sent.number, 1)
        part = self.rounds.participant(round_, sent.device) if round_ else None
        if len(set(answers)) < 2 and not lost and part and part.checksum != "1" * 32:
            self.problems.append(
                f"lost: the counted reply of {sent.device} to {app.name}/{sent.number}: {failure}"
            )
