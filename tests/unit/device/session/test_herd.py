"""Two hundred devices that reconnect at the same moment, on a virtual clock: nothing comes in a wave.

With DEVICES = 10_000 and STEP = 0.25 it takes minutes and shows the same: 203 messages in the busiest second.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import time
from itertools import count
from pathlib import Path

import pytest

from components.runtime.event_loop import EventLoop
from components.runtime.retries import delays
from components.trainer.session.device_context import DeviceContext
from components.trainer.session.device_session import Session
from components.trainer.session.eligibility import HostMetrics
from components.trainer.session.journal import Journal
from components.trainer.session.restarts import RestartBudget
from components.trainer.worker.worker_protocol import Answer, WorkOrder
from fedgrass.federation.messages import encode
from tests.fakes.memory_device import Broker, Bucket, Clock, announcement, configure

pytestmark = pytest.mark.slow  # seconds of trainings, crashes or processes: make test runs them

DEVICES = 200
INTERVAL = 60.0
STEP = 0.05  # seconds, of the clock
BUSIEST = DEVICES // 12  # messages of a kind in a second; a wave would be all of them, an even spread 3.3


class Downloads:
    """A Worker that only notes when it is started, which is when it downloads the model."""

    def __init__(self, note: Callable[[], None]) -> None:
        self._note = note

    def start(self, work: WorkOrder, answer: Callable[[Answer], None]) -> None:  # noqa: ARG002
        self._note()

    def stop_early(self, round_id: str) -> None:
        """Have nothing to finish."""

    def stop(self) -> None:
        """Have nothing to stop."""


class Herd:
    """Sessions that share a clock, a loop and an outage. Their messages are recorded with the time."""

    def __init__(self, folder: Path, *, online: bool = True) -> None:
        self.clock = Clock()
        self.loop = EventLoop(self.clock)
        self.brokers = [Broker() for _ in range(DEVICES)]
        self.times: dict[str, list[float]] = {"hello": [], "heartbeat": [], "complete": [], "download": []}
        self.announcing = False
        seeds = random.Random(3)  # noqa: S311 - chance, no secret
        for number, broker in enumerate(self.brokers):
            broker.online = online
            rng = random.Random(seeds.random())  # noqa: S311
            self._begin(folder / str(number), f"press-{number}", broker, rng)

    def _begin(self, folder: Path, thing: str, broker: Broker, rng: random.Random) -> None:
        folder.mkdir()
        publish = broker.publish

        def hear(topic: str, payload: bytes, qos: int) -> None:
            publish(topic, payload, qos)
            kind = topic.rpartition("/")[2]
            if kind in self.times:
                self.times[kind].append(self.clock.now)
            if kind == "hello" and self.announcing:  # as the cloud does
                broker.deliver(topic.replace("hello", "announce"), encode(announcement()))

        broker.publish = hear  # type: ignore[method-assign]
        place = DeviceContext(
            thing=thing,
            folder=folder / "updates",
            loop=self.loop,
            journal=Journal(folder),
            worker=Downloads(lambda: self.times["download"].append(self.clock.now)),
            restart_budget=RestartBudget(folder, self.clock),
            uploader=Bucket,
            rng=rng,
            host_metrics=lambda _: HostMetrics(time=time(12)),
        )
        Session(place, broker, configure(heartbeat_seconds=INTERVAL)).start()

    def passes(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.loop.run_due()
            self.clock.now += STEP
        self.loop.run_due()

    def switch(self, *, online: bool) -> None:
        for broker in self.brokers:
            broker.online = online
        for times in self.times.values():
            times.clear()

    def busiest(self, kind: str) -> int:
        """The most messages of a kind in any second."""
        times = sorted(self.times[kind])
        return max(bisect_left(times, first + 1) - place for place, first in enumerate(times))


@pytest.mark.slow
def test_after_an_outage_hellos_heartbeats_and_downloads_come_spread_out(tmp_path: Path) -> None:
    herd = Herd(tmp_path)  # all started at the same moment, too
    herd.passes(5)
    herd.switch(online=False)
    herd.passes(300)
    herd.switch(online=True)
    herd.announcing = True
    herd.passes(2 * INTERVAL)
    assert len(herd.times["hello"]) == len(herd.times["download"]) == DEVICES
    for kind in ("hello", "heartbeat", "download"):
        assert herd.busiest(kind) <= BUSIEST, kind


@pytest.mark.slow
def test_devices_that_start_in_an_outage_enter_spread_out(tmp_path: Path) -> None:
    herd = Herd(tmp_path, online=False)
    herd.passes(300)
    herd.switch(online=True)
    herd.announcing = True
    herd.passes(2 * INTERVAL)
    assert len(herd.times["hello"]) == len(herd.times["download"]) == DEVICES
    for kind in ("hello", "heartbeat", "download"):
        assert herd.busiest(kind) <= 2 * BUSIEST, kind  # a try to subscribe comes every 30 s at most


def test_heartbeats_of_devices_that_started_together_are_spread_from_the_second_on(tmp_path: Path) -> None:
    herd = Herd(tmp_path)
    herd.passes(1)
    assert len(herd.times["heartbeat"]) >= DEVICES
    herd.switch(online=True)
    herd.passes(3 * INTERVAL)
    assert herd.busiest("heartbeat") <= BUSIEST


@pytest.mark.parametrize("seed", range(3))
def test_back_off_has_full_jitter(seed: int) -> None:
    """Anything from nothing to the bound is as likely as anything else, however often it was tried."""
    rng = random.Random(seed)  # noqa: S311

    def nth(number: int) -> Iterator[float]:
        for _ in range(500):
            yield next(
                pause
                for place, pause in zip(count(), delays(1.0, 30.0, rng), strict=False)
                if place == number
            )

    for number, bound in ((0, 1.0), (3, 8.0), (9, 30.0)):
        found = sorted(nth(number))
        assert 0 <= found[0] < bound * 0.05
        assert bound * 0.95 < found[-1] <= bound
        assert bound * 0.4 < sum(found) / len(found) < bound * 0.6
