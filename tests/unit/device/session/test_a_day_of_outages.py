"""24 hours of a link that fails all the time, on a virtual clock: announced work gets done, nothing is left.

The broker doubles and delays messages, loses what comes while the device is away (and of quality 0 any), goes
away for seconds to hours, and goes deaf as Nucleus Lite does after a restart of its MQTT daemon. The cloud
announces as the real one does: once, once more if no device accepts, and after each hello.
"""

import contextlib
import gc
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from components.runtime.event_loop import EventLoop
from components.trainer.session.device_context import DeviceContext
from components.trainer.session.device_session import Session
from components.trainer.session.eligibility import read_host_metrics
from components.trainer.session.journal import Journal
from components.trainer.session.restarts import RestartBudget
from components.trainer.worker.worker_protocol import Answer, Failure, WorkOrder
from fedgrass.federation.messages import Completion, Message, Status, Verdict, decode, encode
from tests.fakes.memory_device import Broker, Bucket, Clock, announcement, configure, result

DAY = 24 * 3600.0
ROUND_SECONDS = 1800.0
ACCEPT_SECONDS = 60.0
ENOUGH = 900.0  # seconds of a good link, in which a round has to be done
ANNOUNCE = "fedgrass/plant/clients/press-1/announce"
LOSES, DOUBLES, DELAYS, LATEST = 0.15, 0.15, 0.3, 90.0  # shares of the messages; seconds


class Trainings:
    """A Worker whose works take minutes of the virtual clock; some of them fail."""

    def __init__(self, loop: EventLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self._current: WorkOrder | None = None
        self.done: list[str] = []

    def start(self, work: WorkOrder, answer: Callable[[Answer], None]) -> None:
        self._current = work
        self._loop.call_later(self._rng.uniform(5, 240), lambda: self._end(work, answer))

    def stop_early(self, round_id: str) -> None:
        """Ignore it."""

    def stop(self) -> None:
        self._current = None

    def _end(self, work: WorkOrder, answer: Callable[[Answer], None]) -> None:
        if work is not self._current:
            return
        self._current = None
        if self._rng.random() < 0.05:
            answer(Failure("the camera was unplugged"))
            return
        Path(work.update).parent.mkdir(exist_ok=True)
        Path(work.update).write_bytes(b"x" * 8)
        self.done.append(f"{work.announcement.round}/{work.announcement.attempt}")
        answer(result())


class Link(Broker):
    """A Broker between the device and the cloud, over an unreliable link."""

    def __init__(self, loop: EventLoop, rng: random.Random) -> None:
        super().__init__()
        self._loop = loop
        self._rng = rng
        self.good_since: float | None = loop.clock()
        self.good: list[tuple[float, float]] = []  # from when to when the link was good
        self.to_cloud: Callable[[str, bytes], None] = lambda _topic, _payload: None

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        super().publish(topic, payload, qos)  # its echo comes at once
        if qos or self._rng.random() > LOSES:
            self._carry(lambda: self.to_cloud(topic, payload))

    def tell(self, message: Message) -> None:
        """Bring a message of the cloud to the device, if it is there then."""
        self._carry(lambda: self._arrive(encode(message)))

    def _arrive(self, payload: bytes) -> None:
        if self.online:
            self.deliver(ANNOUNCE, payload)

    def _carry(self, call: Callable[[], None]) -> None:
        for _ in range(1 + (self._rng.random() < DOUBLES)):
            late = self._rng.uniform(0, LATEST) if self._rng.random() < DELAYS else 0.05
            self._loop.call_later(late, call)

    def suffers(self, until: float) -> None:
        """Have an outage or a deafness, and the next one after a while."""
        if self._loop.clock() > until:
            return
        if self.good_since is not None:
            self.good.append((self.good_since, self._loop.clock()))
            self.good_since = None
        self.online, self.deaf = self._rng.choice([(False, False), (False, False), (True, True)])
        over = self._rng.choice([5, 60, 600, 7200]) * self._rng.random()
        self._loop.call_later(over, self._recovers)
        self._loop.call_later(over + self._rng.uniform(10, 3600), lambda: self.suffers(until))

    def _recovers(self) -> None:
        self.online, self.deaf = True, False
        self.good_since = self._loop.clock()


class CloudSide:
    """Opens a round every half hour; announces it, once more if no device accepts, and after each hello."""

    def __init__(self, loop: EventLoop, link: Link) -> None:
        self._loop = loop
        self._link = link
        self.round = 0
        self.opened_at = 0.0
        self.ended: dict[int, str] = {}
        self.accepted: set[int] = set()
        self.copies = 0
        self.hellos = 0
        link.to_cloud = self.hear

    def open(self, until: float) -> None:
        if self._loop.clock() > until:
            return
        self.round += 1
        self.opened_at = self._loop.clock()
        self._announce()
        number = self.round
        self._loop.call_later(ACCEPT_SECONDS, lambda: self._remind(number))
        self._loop.call_later(ROUND_SECONDS, lambda: self.open(until))

    def _remind(self, number: int) -> None:
        if number not in self.accepted:
            self._announce()

    def hear(self, topic: str, payload: bytes) -> None:
        kind = topic.rpartition("/")[2]
        if kind == "hello":
            self.hellos += 1
            self._announce()
        elif kind == "complete":
            self._count(decode(payload, Completion))
        elif kind == "status":
            status = decode(payload, Status)
            self.accepted.add(status.round)
            if status.state in {"failed", "declined"}:
                self.ended.setdefault(status.round, status.state)

    def _count(self, reply: Completion) -> None:
        self.copies += 1
        late = reply.round != self.round and reply.round not in self.ended
        self.ended.setdefault(reply.round, "late" if late else "counted")
        self._link.tell(Verdict(run=reply.run, round=reply.round, attempt=1, counted=not late, reason=""))

    def _announce(self) -> None:
        left = self.opened_at + ROUND_SECONDS - self._loop.clock()
        if self.round and self.round not in self.ended and left > 0:
            self._link.tell(announcement(self.round, deadline_seconds=left))


class Day:
    """One device and its cloud; the device's process is started again whenever it ends."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - chance, no secret
        self.folder = folder
        self.clock = Clock()
        self.begun = self.clock.now
        self.starts = 0
        self.exits: list[float] = []
        self.cloud_loop = EventLoop(self.clock)
        self.link = Link(self.cloud_loop, self.rng)
        self.cloud = CloudSide(self.cloud_loop, self.link)
        self.bucket = Bucket()
        self.worker: Trainings | None = None
        self.done: list[str] = []

    def lives(self) -> None:
        until = self.clock.now + DAY
        self.link.suffers(until - 2 * ROUND_SECONDS)
        self.cloud.open(until - ROUND_SECONDS)
        while self.clock.now < until:
            self._lives_one_process(until)

    def had_a_good_link(self, number: int) -> bool:
        """Whether the link was good for long enough without a break while a round was open."""
        opens = self.begun + (number - 1) * ROUND_SECONDS
        closes = opens + ROUND_SECONDS
        spans = [*self.link.good, (self.link.good_since or self.clock.now, self.clock.now)]
        return any(min(last, closes) - max(first, opens) > ENOUGH for first, last in spans)

    def is_done(self, number: int) -> bool:
        return self.cloud.ended.get(number) in {"counted", "failed"}

    def _lives_one_process(self, until: float) -> None:
        """Run until the process ends: by itself, by a power cut about twice a day, or with the day."""
        loop = EventLoop(self.clock)
        self.starts += 1
        self.link.handlers.clear()
        self.worker = Trainings(loop, self.rng)
        place = DeviceContext(
            thing="press-1",
            folder=self.folder / "updates",
            loop=loop,
            journal=Journal(self.folder),
            worker=self.worker,
            restart_budget=RestartBudget(self.folder, self.clock),
            uploader=lambda: self.bucket,
            rng=self.rng,
            background=lambda call: call(),
            host_metrics=read_host_metrics,
        )
        power_cut = self.clock.now + self.rng.expovariate(2 / DAY)
        Session(place, self.link, configure()).start()
        while self.clock.now < min(until, power_cut) and loop._exit_code is None:
            waits = [wait for wait in (loop.run_due(), self.cloud_loop.run_due()) if wait is not None]
            self.clock.now += min(1.0, *waits) if waits else 1.0
        if loop._exit_code is not None:
            place.restart_budget.take()
            self.exits.append(self.clock.now)
        self.done += self.worker.done


def open_files() -> set[tuple[str, str]]:
    """Return the number and the target of each open file, without that of this listing."""
    found = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, and no paths
        with contextlib.suppress(FileNotFoundError):
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115 - not always a path
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_of_outages_loses_no_work_for_good_and_leaves_nothing(tmp_path: Path, seed: int) -> None:
    gc.collect()
    threads, files = threading.active_count(), open_files()
    day = Day(tmp_path, seed)
    day.lives()
    rounds = range(1, day.cloud.round + 1)
    counted = [number for number in rounds if day.cloud.ended.get(number) == "counted"]
    assert len(rounds) > 40
    # Announcements were missed and hellos made up for them; replies were repeated until the verdict.
    undone = [number for number in rounds if day.had_a_good_link(number) and not day.is_done(number)]
    assert undone == []
    assert len(counted) in range(15, len(rounds))
    assert day.cloud.hellos > day.starts
    assert day.cloud.copies > len(counted)
    # No work was done twice, except what a power cut interrupted.
    assert len(day.done) - len(set(day.done)) <= day.starts
    assert set(day.bucket.objects) == {
        f"fleet-bucket/updates/press-1/run-a/{number.partition('/')[0]}-1.safetensors" for number in day.done
    }
    gc.collect()
    assert threading.active_count() == threads
    assert open_files() - files == set()  # what an earlier test left open may have been closed since
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert set(left) <= {"journal.json", "exits.json"}
    assert (tmp_path / "journal.json").stat().st_size < 20_000
