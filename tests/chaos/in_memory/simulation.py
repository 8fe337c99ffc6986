"""One run over ports in memory, with faults of devices, workers, operators, timing and the table.

The functions are the real ones. Time is a list of due actions, so hours pass in a moment.
"""

import base64
import contextlib
import hashlib
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import msgspec
import numpy as np

from cloud_functions import averager
from cloud_functions.aws.sqs_batch import each_record
from cloud_functions.devices import forget_device
from cloud_functions.recovery import repair
from cloud_functions.rounds import hellos, run_actions
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.aggregation.sharding_plan import Job, Scale
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages import Announcement, Completion, NewModel, Status, Verdict
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import Event, Participant, Participation, Round, State
from fedgrass.federation.runs import LIVING, MOST_HISTORY, Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import Arrays, checksum, decode, encode
from fedgrass.local.in_memory.virtual_clock import VirtualClock
from tests.chaos.in_memory.disturbed_ports import CALM, Chances, Disturbed, Disturber, InjectedError
from tests.chaos.in_memory.simulated_queue import Body, Queue
from tests.fakes.memory_cloud import (
    Crash,
    MemoryAlarms,
    MemoryBucket,
    MemoryDevices,
    MemoryPublisher,
    MemoryRounds,
    MemoryThingGroups,
    Rows,
)
from tests.fakes.memory_log import MemoryLog

FLEET, RUN, TASK = "garden", "run-1", "digits"
DEVICES = 5
START = 1_700_000_000_000
LEASE_SECONDS, SWEEP_SECONDS, OPERATOR_SECONDS = 60, 300, 600
KILLED = "killed"
MODEL: Arrays = {"weight": np.zeros((2, 2), np.float32), "batches": np.array(0, dtype=np.int64)}


class Trained(msgspec.Struct, frozen=True):
    """What a simulated device did: the value of its update, and the model that it was told to start from."""

    value: int
    start: float  # the value of that model's arrays
    number: int  # of that model


class Disturbances(msgspec.Struct, frozen=True):
    """The faults of a schedule."""

    seconds: int = 3600  # during which faults happen
    chances: Chances = CALM
    twice: float = 0.0  # messages that are delivered again
    alarms_early: float = 0.0
    alarms_late: float = 0.0
    alarms_twice: float = 0.0
    alarms_never: float = 0.0
    devices_fail: float = 0.0
    objects_lost: int = 0
    journals_damaged: int = 0
    restores: int = 0
    actions: int = 0
    hellos: int = 0
    redrives: bool = True  # whether the operator sends dead letters back after the faults
    forgets: int = 0  # devices that the operator removes from the devices table


class WatchedRounds(MemoryRounds):
    """A table that records when rounds close."""

    def __init__(self, closing: Any) -> None:
        super().__init__()
        self._closing = closing

    def move(self, current: Round, event: Event, **changes: object) -> Round:
        moved = super().move(current, event, **changes)
        if event is Event.MODEL_WRITTEN:
            self._closing(moved)
        return moved

    def backup(self) -> tuple[Any, ...]:
        """Return all rows as they are."""
        return dict(self._runs), dict(self._rounds), dict(self._participants), set(self._settled)

    def restore(self, backup: tuple[Any, ...]) -> None:
        """Restore all rows."""
        self._runs, self._rounds, self._participants = (Rows(rows) for rows in backup[:3])
        self._settled = set(backup[3])


class WatchedBucket(MemoryBucket):
    """A bucket that records how many contents each of its keys has had."""

    def __init__(self) -> None:
        self.contents: dict[str, set[str]] = defaultdict(set)
        self.objects: dict[str, bytes] = {}
        super().__init__()

    def note(self) -> None:
        """Record the contents of objects under ``models/``."""
        for key, data in self.objects.items():
            if key.startswith(f"models/{RUN}/"):
                self.contents[key].add(hashlib.sha256(data).hexdigest())


class SimulatedAlarms(MemoryAlarms):
    """Alarms and reminders, delivered by the simulation's clock and random numbers."""

    def __init__(self, world: "Simulation") -> None:
        super().__init__()
        self._world = world

    def set(self, alarm: Alarm) -> None:
        if alarm in self.standing():
            return
        super().set(alarm)
        self._world.set_alarm(alarm)

    def hand_over(self, job: Job) -> None:
        self._world.queue.send({"job": msgspec.to_builtins(job)})

    def remind(self, reminder: Reminder, seconds: int) -> None:
        self._world.queue.send({"reminder": msgspec.to_builtins(reminder)}, seconds)


class SimulatedPublisher(MemoryPublisher):
    """MQTT to the simulation's devices."""

    def __init__(self, world: "Simulation") -> None:
        super().__init__()
        self._world = world

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for topic, payload in messages:
            self._world.hear(topic, payload)


class Simulation:
    """A run under one schedule of faults.

    Args:
        seed: the seed of all random numbers.
        disturbances: the kinds of faults.
        scale: how averages are divided.
        settings: the settings of the run.
    """

    def __init__(self, seed: int, disturbances: Disturbances, scale: Scale, settings: dict[str, Any]) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - repeatable
        self.wrong = disturbances
        self.clock = VirtualClock(START)
        self.queue = Queue(self.clock, self.dice, self._take)
        self.disturber = Disturber(self.dice, self._stall, self._lose_a_draft)
        self.rounds, self.bucket = WatchedRounds(self._closes), WatchedBucket()
        self.devices, self.journal = MemoryDevices(), MemoryLog()
        self.alarms, self.publisher = SimulatedAlarms(self), SimulatedPublisher(self)
        self.names = [f"thing-{number}" for number in range(DEVICES)]
        self.settings = parse_settings({"task": TASK, **settings})
        self.scale = scale
        self.problems: list[str] = []  # wrong averages, models written twice, ...
        self.refused = ""  # why the run could not be started
        self.newest = (0, "")  # round and SHA-256 of the task's newest model
        self._trained: dict[tuple[str, str], Trained] = {}  # by device and checksum of the update
        self._counted: dict[tuple[str, str], int] = {}  # the same: the round whose model has the update
        self.stale = 0  # updates in models that started from an older model than the newest
        self._done: dict[tuple[str, int, int, int], bytes] = {}  # completions, by device and announcement
        self._backups: list[tuple[Any, ...]] = []
        self._depth = 0  # of workers that sleep while others continue
        self._actions = 0
        self._lost: dict[str, bytes] = {}  # objects that were removed or damaged
        self._restored = 0
        self._repairs = 0
        self._redrives = disturbances.redrives
        self._averagers_die = disturbances.chances is not CALM
        self.given_up = False  # by the operator, who cancelled the run because no repair helped
        self.averager, self.initiator = self._worker(can_average=True), self._worker(can_average=False)

    def _worker(self, *, can_average: bool) -> Services:
        ports: list[Any] = [
            Disturbed(port, self.disturber)
            for port in (self.rounds, self.bucket, self.publisher, self.alarms)
        ]
        return Services(
            fleet=FLEET,
            rounds=ports[0],
            devices=self.devices,
            bucket=ports[1],
            publisher=ports[2],
            alarms=ports[3],
            thing_groups=MemoryThingGroups(),
            now=lambda: self.clock.now,
            log=self.journal,
            lease_seconds=LEASE_SECONDS,
            can_average=can_average,
            scale=self.scale,
        )

    # ------------------------------------------------------------ the course of it
    def play(self) -> None:
        """Start the run, inject faults for some time, then let it end without faults."""
        self.bucket.write(object_keys.model(RUN, 0), encode(MODEL))
        for name in self.names:
            self.devices.heartbeat(name, self.clock.now, TASK)
        self._plan_mishaps()
        self.disturber.chances, self.queue.twice = self.wrong.chances, self.wrong.twice
        self._start(tries=20)
        self._every(SWEEP_SECONDS, self._sweep)
        self._every(60, self._heartbeats)
        self.clock.run_until(START + self.wrong.seconds * 1000, most=4000)
        self.disturber.chances, self.queue.twice, self.wrong = CALM, 0.0, Disturbances()
        self._start(tries=1)
        self._every(OPERATOR_SECONDS, self._look_as_an_operator)
        for _ in range(60):
            self.clock.run_until(self.clock.now + 1_200_000, most=3000)
            if self.is_over():
                break
        self._judge_the_end()
        if run := self.run():
            self._judge_history(run)

    def run(self) -> Run | None:
        """Return the run as it is."""
        return self.rounds.run(RUN)

    @property
    def ruined(self) -> bool:
        """Whether the table was restored and the bucket lost the manifests of later rounds."""
        kept = (f"models/{RUN}/", f"rounds/{RUN}/")
        return bool(self._restored) and any(key.startswith(kept) for key in self._lost)

    def newest_round(self) -> Round | None:
        """Return the run's newest round."""
        run = self.run()
        return self.rounds.round(RUN, run.round, run.attempt) if run and run.round else None

    def is_over(self) -> bool:
        """Return whether the run is complete."""
        run, newest = self.run(), self.newest_round()
        if run is None:
            return bool(self.refused)
        over = newest is None or newest.state in {State.CLOSED, State.ABANDONED}
        return run.state not in LIVING and over and not self.rounds.unsettled()

    def _every(self, seconds: float, act: Any) -> None:
        def again() -> None:
            act()
            self.clock.after(seconds, again)

        self.clock.after(seconds, again)

    def _sweep(self) -> None:
        self.queue.send({"sweep": True})

    def _heartbeats(self) -> None:
        for name in self.names:
            if not self.wrong.devices_fail or self.dice.random() > self.wrong.devices_fail / 2:
                self.devices.heartbeat(name, self.clock.now, TASK)

    # ------------------------------------------------------------ workers
    def _take(self, batch: Sequence[Body]) -> list[str | None]:
        """Have an averager process a batch of messages; return for each why it failed, or None."""
        lines = len(self.journal.lines)
        records = [
            {"messageId": str(place), "body": msgspec.json.encode(body).decode()}
            for place, body in enumerate(batch)
        ]
        try:
            answer = each_record(
                {"Records": records},
                self.journal,
                partial(averager.take, self.averager),
                partial(averager.advance, self.averager),
                together=partial(averager.take_together, self.averager),
            )
        except Crash:
            return [KILLED] * len(batch)
        finally:
            self.bucket.note()
        said = [
            line for line in self.journal.lines[lines:] if line.startswith(("failed: ", "retried later: "))
        ]
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        reason = said[-1] if said else "failed without a message"
        return [reason if record["messageId"] in failed else None for record in records]

    def _stall(self) -> None:
        """Let a worker sleep beyond its lease while others continue."""
        if self._depth < 2:
            self._depth += 1
            seconds = self.dice.choice([5, LEASE_SECONDS + 1, 400])
            self.clock.run_until(self.clock.now + seconds * 1000, most=40)
            self._depth -= 1

    def set_alarm(self, alarm: Alarm) -> None:
        """Deliver an alarm, perhaps late or twice."""
        wrong, left = self.wrong, max(0.0, (alarm.at - self.clock.now) / 1000)
        if self._happens(wrong.alarms_never):
            return
        if self._happens(wrong.alarms_early):
            left *= self.dice.random()
        if self._happens(wrong.alarms_late):
            left += self.dice.choice([30, 500, 3 * 3600])
        for _ in range(2 if self._happens(wrong.alarms_twice) else 1):
            self.clock.after(left + self.dice.random(), partial(self._ring, alarm))

    def _ring(self, alarm: Alarm) -> None:
        # A cancelled alarm may still fire at the same moment.
        if alarm in self.alarms.standing() or self._happens(self.wrong.alarms_twice):
            self.alarms.cancel(alarm)
            self.queue.send({"alarm": msgspec.to_builtins(alarm)})

    def _happens(self, chance: float) -> bool:
        return bool(chance) and self.dice.random() < chance

    # ------------------------------------------------------------ devices
    def hear(self, topic: str, payload: bytes) -> None:
        """Deliver what is published to a device."""
        parts = topic.split("/")
        if topic.endswith("/announce"):
            said = messages.decode_announce(payload)
            device = parts[3]
            if isinstance(said, Verdict):
                self._done = {
                    key: done
                    for key, done in self._done.items()
                    if key[:3] != (device, said.round, said.attempt) or done
                }
                return
            if isinstance(said, Announcement):
                self.clock.after(self.dice.uniform(0.1, 5), partial(self._work, device, said))
        elif topic == topics.of_models(FLEET, TASK):
            self._watch_newest()

    def _work(self, device: str, work: Announcement) -> None:
        key = (device, work.round, work.attempt, work.announced_at)
        if done := self._done.get(key):
            self._say(device, Kind.COMPLETE, done)
            return
        if self._happens(self.wrong.devices_fail):
            state = self.dice.choice(["declined", "failed", "silent", "bad"])
            if state in {"declined", "failed"}:
                self._say_status(device, work, state, "a reason")
                return
            if state == "silent":
                return
        else:
            state = ""
        if work.model_key not in self.bucket.objects:
            self._say_status(device, work, "failed", f"there is no {work.model_key}")
            return
        self._say_status(device, work, "accepted", "")
        start = float(decode(self.bucket.objects[work.model_key])["weight"][0, 0])
        self.clock.after(self.dice.uniform(1, 60), partial(self._finish, device, work, start, state == "bad"))

    def _finish(self, device: str, work: Announcement, start: float, bad: bool) -> None:  # noqa: FBT001 - drawn
        key = (device, work.round, work.attempt, work.announced_at)
        completion = Completion(
            run=work.run,
            round=work.round,
            attempt=work.attempt,
            round_id=messages.round_id(work.run, work.round, work.attempt),
            announced_at=work.announced_at,
            bytes=0,
            checksum="0" * 32,
            examples=self.dice.randint(4, 9),  # within the cap of three times the median
            metrics={"loss": 0.25},
        )
        if work.work == "train":
            value = self.dice.randint(1, 10**6)
            data = encode({name: np.full_like(array, value) for name, array in MODEL.items()})
            self.bucket.write(object_keys.update(device, work.run, work.round, work.attempt), data)
            found = "1" * 32 if bad else checksum(data)
            number = int(work.model_key.rpartition("/")[2].partition(".")[0])
            self._trained[device, found] = Trained(value, start, number)
            completion = msgspec.structs.replace(completion, bytes=len(data), checksum=found)
        self._done[key] = messages.encode(completion)
        self._repeat(device, self._done[key], 6)

    def _repeat(self, device: str, said: bytes, times: int) -> None:
        """Send the completion repeatedly, without waiting for a verdict."""
        if not times:
            return
        if not self._happens(self.wrong.devices_fail):  # otherwise that message is lost
            self._say(device, Kind.COMPLETE, said)
            times = min(times, 2)
        self.clock.after(45, partial(self._repeat, device, said, times - 1))

    def _say_status(self, device: str, work: Announcement, state: str, reason: str) -> None:
        said = Status(
            run=work.run, round=work.round, attempt=work.attempt, state=cast(Any, state), reason=reason
        )
        self._say(device, Kind.STATUS, messages.encode(said))

    def _say(self, device: str, kind: Kind, payload: bytes) -> None:
        body = {
            "payload": base64.b64encode(payload).decode(),
            "device": device,
            "kind": kind,
            "client": device,
            "received_at": self.clock.now,
        }
        self.queue.send(body, self.dice.uniform(0, 2))

    # ------------------------------------------------------------ operators
    def _start(self, tries: int) -> None:
        settings = msgspec.to_builtins(self.settings)
        self._ask({"action": "start", "run": RUN, "settings": settings}, tries)

    def _ask(self, event: Body, tries: int) -> None:
        """Invoke the initiator; Lambda retries a failed invocation."""
        for _ in range(tries):
            try:
                if event["action"] == "repair":
                    repair.act(self.initiator, event)
                elif event["action"] == "forget":
                    forget_device.forget(self.initiator, event)
                else:
                    run_actions.act(self.initiator, event)
            except (Crash, InjectedError):
                continue
            except SettingsError as error:
                if event["action"] == "start" and self.run() is None:
                    self.refused = str(error)
                self._follow(str(error))
            except FedgrassError as error:
                self.problems.append(f"{event['action']}: {type(error).__name__}: {error}")
            break
        else:
            if event["action"] == "repair":  # it may have written some rows: the operator repeats it
                self.clock.after(OPERATOR_SECONDS, partial(self._ask, event, tries))
        self.bucket.note()

    def _act_at_random(self) -> None:
        action = self.dice.choice(
            ["pause", "resume", "resume", "retry", "next", "next", "start", "repair", "cancel"]
            if self.dice.random() < 0.1
            else ["pause", "resume", "resume", "retry", "next", "next", "repair"]
        )
        if action == "start":
            self._start(tries=2)
            return
        self._actions += 1
        event = {"action": action, "run": RUN, "id": f"click-{self._actions}"}
        if action != "repair":  # which may do something each time
            event["by"] = f"operator-{self._actions}"
        self._ask(event, tries=3)
        if self.dice.random() < 0.4:  # it is delivered twice
            self.clock.after(self.dice.choice([0, 20, 3000]), partial(self._ask, event, 3))

    def _forget_a_device(self) -> None:
        """Remove a device, which comes back with its next heartbeat, unless it is at work."""
        self._ask({"action": "forget", "device": self.dice.choice(self.names)}, tries=3)

    def _follow(self, refusal: str) -> None:
        """Follow the instructions of a refusal, as an operator would."""
        if self.disturber.chances is not CALM:
            return
        if damaged := re.match(r"object (\S+) in the bucket is damaged .*: remove it", refusal):
            self.bucket.objects.pop(damaged[1], None)
        missing = re.search(r"(\S+) is missing in the bucket: put it back", refusal)
        if missing and missing[1] in self._lost:
            self.bucket.objects[missing[1]] = self._lost[missing[1]]

    def _look_as_an_operator(self) -> None:
        """Do what the run's state requires of an operator, and nothing else."""
        if self._redrives:
            self.queue.redrive()
        run, newest = self.run(), self.newest_round()
        stopped = (
            run is None or (run.round and newest is None) or (run.state is RunState.PAUSED and run.reason)
        )
        if stopped or self.rounds.unsettled():
            for _ in range(4):  # the refusal states what to do
                self._ask({"action": "repair", "run": RUN}, 1)
            run = self.run()
            self._repairs += 1
            if run and self._repairs > 6 and self.ruined:
                self.given_up = True
                self._ask({"action": "cancel", "run": RUN}, 1)
                return
        if run is None:
            self._start(tries=1)
        elif run.state is RunState.PAUSED:
            self._ask({"action": "resume", "run": RUN}, 1)
        elif (
            run.settings.schedule == "by_hand"
            and run.state is RunState.RUNNING
            and run.wanted <= run.round
            and newest
            and newest.state in {State.CLOSED, State.ABANDONED}  # an evaluation may be left out
        ):
            self._ask({"action": "next", "run": RUN}, 1)

    # ------------------------------------------------------------ mishaps
    def _plan_mishaps(self) -> None:
        wrong = self.wrong
        for count, mishap in (
            (wrong.objects_lost, self._lose_an_object),
            (wrong.journals_damaged, self._damage_a_journal),
            (2 * wrong.restores, self._back_up),
            (wrong.restores, self._restore),
            (wrong.actions, self._act_at_random),
            (wrong.hellos, self._say_hello),
            (wrong.forgets, self._forget_a_device),
        ):
            for _ in range(count):
                self.clock.after(self.dice.uniform(1, wrong.seconds), mishap)

    def _lose_an_object(self) -> None:
        where = self.dice.choice(["drafts/", "drafts/", "updates/", "rounds/", "models/"])
        keys = [key for key in self.bucket.objects if key.startswith(where)]
        if keys:
            key = self.dice.choice(keys)
            self._lost[key] = self.bucket.objects.pop(key)
            self.newest = (0, "") if key == object_keys.latest_model(TASK) else self.newest

    def _lose_a_draft(self) -> None:
        """Lose one of the newest drafts, which an averager may be about to publish."""
        keys = [key for key in self.bucket.objects if key.startswith("drafts/")]
        if keys:
            key = self.dice.choice(keys[-4:])
            self._lost[key] = self.bucket.objects.pop(key)

    def _damage_a_journal(self) -> None:
        keys = [key for key in self.bucket.objects if key.endswith(".json")]
        if keys:
            key = self.dice.choice(keys)
            self._lost[key] = self.bucket.objects[key]
            self.bucket.objects[key] = self.bucket.objects[key][: self.dice.randint(0, 20)]
            self.newest = (0, "") if key == object_keys.latest_model(TASK) else self.newest

    def _back_up(self) -> None:
        self._backups.append(self.rounds.backup())

    def _restore(self) -> None:
        if self._backups:
            self.rounds.restore(self.dice.choice(self._backups))
            self.disturber.forget()
            self._restored += 1

    def _say_hello(self) -> None:
        with contextlib.suppress(
            Crash, InjectedError
        ):  # its message is delivered again; there are other hellos
            hellos.answer_hello(self.initiator, self.dice.choice(self.names))

    # ------------------------------------------------------------ the judge
    def _closes(self, closed: Round) -> None:
        """Compute the average of the counted updates, and compare."""
        where = f"round {closed.number} attempt {closed.attempt}"
        parts = [p for p in self.rounds.participants(closed) if p.state is Participation.REPLIED]
        expected = self._expected(closed, parts)
        self._count_once(closed, parts)
        key = object_keys.draft(RUN, closed.number, closed.attempt, closed.lease, "model")
        data = self.bucket.objects.get(key)
        if data is None:  # lost at this moment
            return
        if hashlib.sha256(data).hexdigest() != closed.model_sha256:
            self.problems.append(f"wrong: {where} has another draft than its row")
        found = float(decode(data)["weight"][0, 0])
        largest = max(abs(self._trained[part.device, part.checksum].value) for part in parts)
        if abs(found - expected) > max(abs(expected), largest * (self.settings.mode == "buffered")) * 1e-6:
            self.problems.append(f"wrong: {where} is {found}, the mean of {len(parts)} is {expected}")

    def _expected(self, closed: Round, parts: Sequence[Participant]) -> float:
        """Return the value of the new model, from what the devices did and not from the table."""
        weights = [part.examples if self.settings.aggregation == "weighted_mean" else 1 for part in parts]
        works = [self._trained[part.device, part.checksum] for part in parts]
        if self.settings.mode != "buffered":
            return sum(w * work.value for w, work in zip(weights, works, strict=True)) / sum(weights)
        base = float(decode(self.bucket.objects[object_keys.model(RUN, closed.base)])["weight"][0, 0])
        step = 0.0
        for weight, work in zip(weights, works, strict=True):
            age = closed.base - work.number
            self.stale += age > 0
            if not 0 <= age <= self.settings.max_staleness:
                self.problems.append(f"wrong: round {closed.number} counts an update of model {work.number}")
            step += weight * self._weight_of_age(age) * (work.value - work.start)
        return base + step / sum(weights)

    def _weight_of_age(self, age: int) -> float:
        """Return the weight of a stale update, by the definitions of Xie et al. (2019)."""
        a, b = self.settings.staleness_exponent, self.settings.staleness_slack
        weights = {
            "constant": 1.0,
            "polynomial": math.exp(-a * math.log(age + 1)),
            "hinge": 1 / (a * max(0, age - b) + 1),
        }
        return weights[self.settings.staleness]

    def _count_once(self, closed: Round, parts: Sequence[Participant]) -> None:
        """Check that no update is in the models of two rounds."""
        for part in parts:
            before = self._counted.setdefault((part.device, part.checksum), closed.number)
            if before != closed.number and not self._restored:
                self.problems.append(
                    f"twice: the update of {part.device} is in the models {before} and {closed.number}"
                )

    def _watch_newest(self) -> None:
        data = self.bucket.objects.get(object_keys.latest_model(TASK))
        if data is None:
            self.newest = (0, "")
            return
        try:
            said = messages.decode(data, NewModel)
        except FedgrassError:
            return
        same_round = said.round == self.newest[0] and said.key not in self._lost
        if said.round < self.newest[0] or (same_round and said.sha256 != self.newest[1]):
            self.problems.append(f"wrong: latest.json moved from {self.newest[0]} back to {said.round}")
        self.newest = (said.round, said.sha256)

    def _judge_the_end(self) -> None:
        for key, contents in self.bucket.contents.items():
            if len(contents) > 1 and key not in self._lost:
                self.problems.append(f"wrong: {key} had {len(contents)} contents")
        for of in list(self.rounds._rounds.values()):
            states = [part.state for part in self.rounds.participants(of)]
            replied = states.count(Participation.REPLIED) + states.count(Participation.REFUSED)
            if of.replied != replied and of.reason != "rebuilt from its cohort; who replied is not known":
                self.problems.append(
                    f"twice: {of.number}/{of.attempt} has {of.replied}, {replied} devices replied"
                )
            if of.state in {State.OPEN, State.AGGREGATING}:
                self.problems.append(f"stuck: round {of.number}/{of.attempt} is left {of.state}")
        run = self.run()
        if not self.is_over():
            newest = self.newest_round()
            stands = f"{run.state} {run.reason} at {run.round}/{run.attempt}" if run else "without a row"
            self.problems.append(f"stuck: the run is {stands}, {newest.state if newest else 'no round'}")
        elif run and not run.reason:
            self.problems.append(f"stuck: the run is {run.state} for no reason")
        for letter in self.queue.all_letters:
            if not is_stated(letter.reasons, self._lost, averagers_die=self._averagers_die):
                self.problems.append(f"letter: {str(letter.body)[:100]}: {letter.reasons[-1]}")

    def _judge_history(self, run: Run) -> None:
        """Check that the run's history is bounded and has each action once, delivered twice or not."""
        callers = [entry.by for entry in run.history if entry.by]
        if len(set(callers)) < len(callers) and not self._restored:
            self.problems.append(f"twice: the history has {callers}")
        if not run.history or len(run.history) > MOST_HISTORY:
            self.problems.append(f"wrong: the history has {len(run.history)} actions")


def is_stated(reasons: Iterable[str], lost: Iterable[str], *, averagers_die: bool) -> bool:
    """Return whether injected faults explain why a message failed.

    If it met an error that was not injected, or waited although no averager had a fault, fedgrass failed.
    An error that names one of the ``lost`` objects was injected.
    """
    keys = list(lost)
    return all(
        reason == KILLED
        or "injected" in reason
        or any(key in reason for key in keys)
        or (averagers_die and reason.startswith("retried later: "))
        for reason in reasons
    )
