"""A deployment waits for the work in progress, for as long as the configuration allows and no longer."""

from collections.abc import Callable

import pytest

from components.runtime.component_errors import Unavailable
from components.runtime.event_loop import EventLoop
from components.trainer.session.restarts import RECHECK_SECONDS, UpdateDeferral
from tests.fakes.memory_device import Clock


class Nucleus:
    """A nucleus whose questions a test asks."""

    def __init__(self, *, asks: bool = True) -> None:
        self.asks = asks
        self.answers: list[tuple[str, float]] = []
        self.reasons: list[str] = []
        self.answerable = True
        self._asked: Callable[[str], None] = lambda _: None

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        if not self.asks:
            message = "could not watch updates of components: ServiceError"
            raise Unavailable(message)
        self._asked = asked

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        if not self.answerable:
            message = "Time limit to respond to PreComponentUpdateEvent exceeded"
            raise Unavailable(message)
        self.answers.append((deployment, seconds))
        self.reasons.append(reason)


class Device:
    """The deferral with a nucleus and an assignment in progress."""

    def __init__(self, *, asks: bool = True) -> None:
        self.clock = Clock()
        self.loop = EventLoop(self.clock)
        self.nucleus = Nucleus(asks=asks)
        self.work = ""
        self.longest = 100.0
        UpdateDeferral(self.loop, self.nucleus, work=lambda: self.work, longest=lambda: self.longest).watch()

    def is_asked(self, deployment: str = "d1") -> float:
        self.nucleus._asked(deployment)
        self.loop.run_due()
        return self.nucleus.answers[-1][1]


def test_an_idle_device_lets_an_update_begin_at_once() -> None:
    assert Device().is_asked() == 0


def test_an_update_waits_for_the_work_in_hand_and_no_longer() -> None:
    device = Device()
    device.work = "run-a/1/1"
    assert device.is_asked() == RECHECK_SECONDS
    assert device.nucleus.reasons == ["works on run-a/1/1"]
    device.clock.now += RECHECK_SECONDS
    device.work = ""
    assert device.is_asked() == 0


def test_the_wait_is_bounded_in_all_and_per_deployment() -> None:
    device = Device()
    device.work = "run-a/1/1"
    waits = []
    for _ in range(6):
        waits.append(device.is_asked())
        device.clock.now += waits[-1]
    assert waits == [30, 30, 30, 10, 0, 0]
    assert device.is_asked("d2") == RECHECK_SECONDS


@pytest.mark.parametrize("work", ["", "run-a/1/1"])
def test_zero_seconds_defer_nothing(work: str) -> None:
    device = Device()
    device.longest, device.work = 0.0, work
    assert device.is_asked() == 0


def test_a_nucleus_that_does_not_ask_or_does_not_wait_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        late = Device(asks=False)
    assert "could not watch updates of components" in caplog.text
    late.nucleus.asks = True
    late.clock.now += 31
    late.loop.run_due()
    assert late.is_asked() == 0
    device = Device()
    device.nucleus.answerable = False
    device.nucleus._asked("d1")
    device.loop.run_due()
    assert "Time limit to respond" in caplog.text
