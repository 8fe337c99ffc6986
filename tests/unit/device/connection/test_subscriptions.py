"""Each subscription is confirmed by itself, requested until it stands, and named while it fails."""

import random
from pathlib import Path

import pytest

from components.runtime.component_errors import Forbidden, Unavailable
from components.runtime.event_loop import EventLoop
from components.runtime.process_setup import LOST
from components.runtime.retries import HEALTHY_SECONDS, Subscription, delays
from fedgrass.federation.messages import Heartbeat
from tests.fakes.memory_device import TOPICS, Clock, Device, announcement, verdict

ANNOUNCE, HEARTBEAT = f"{TOPICS}/announce", f"{TOPICS}/heartbeat"


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path, heartbeat_seconds=10)


def refuse(device: Device, topic: str, error: Exception | None = None) -> None:
    device.broker.refused[topic] = error or Unavailable(
        "could not subscribe: IoT Core answered Quota exceeded"
    )


def grant(device: Device) -> None:
    device.broker.refused.clear()


def lose(device: Device, topic: str) -> None:
    """The broker drops a subscription, and the connection reports it."""
    device.broker.handlers.pop(topic)
    device.session.subscription_lost(topic, "refused after a reconnect")
    device.settle()


def last_heartbeat(device: Device) -> Heartbeat:
    found = device.said("heartbeat")[-1]
    assert isinstance(found, Heartbeat)
    return found


def hellos(device: Device) -> int:
    return len(device.said("hello"))


@pytest.mark.parametrize("minutes", [1, 30, 300])
def test_one_refused_subscription_is_requested_until_it_stands_and_is_named_meanwhile(
    device: Device, minutes: int
) -> None:
    device.passes(200)
    refuse(device, ANNOUNCE)
    lose(device, ANNOUNCE)
    device.passes(minutes * 60, step=1)
    assert last_heartbeat(device).connection_error == (
        "announcements are not received: could not subscribe: IoT Core answered Quota exceeded"
    )
    requested = device.broker.subscribed.count(ANNOUNCE)
    assert minutes * 2 <= requested <= minutes * 10 + 10  # with back-off, and never given up
    grant(device)
    device.passes(45)
    assert last_heartbeat(device).connection_error == ""
    assert hellos(device) == 2  # so that the cloud repeats its announcements
    assert device.exit_code is None
    device.hears(announcement())
    assert device.states == ["accepted"]


@pytest.mark.parametrize(
    "error", [Unavailable("unanswered"), Forbidden("not allowed")], ids=["quota", "policy"]
)
def test_a_device_in_a_fleet_outlives_a_refusal(device: Device, error: Exception) -> None:
    refuse(device, ANNOUNCE, error)
    lose(device, ANNOUNCE)
    device.passes(600, step=1)
    assert str(error) in last_heartbeat(device).connection_error
    grant(device)
    device.passes(45)
    assert ANNOUNCE in device.broker.handlers


def test_a_topic_that_is_forbidden_from_the_start_is_the_operators_to_mend(
    tmp_path: Path,
) -> None:
    with pytest.raises(Forbidden):
        Device(tmp_path, refused={ANNOUNCE: Forbidden("not allowed")})


def test_refused_heartbeats_cost_neither_work_nor_the_process_at_once(device: Device) -> None:
    refuse(device, HEARTBEAT)
    lose(device, HEARTBEAT)
    device.passes(200, step=1)
    assert device.exit_code is None
    assert last_heartbeat(device).connection_error.startswith("its own heartbeats are not received")
    device.hears(announcement())
    assert device.states == ["accepted"]
    grant(device)
    device.passes(45)
    assert (device.exit_code, last_heartbeat(device).connection_error) == (None, "")


def test_a_process_whose_heartbeats_stay_refused_is_replaced_at_last(device: Device) -> None:
    refuse(device, HEARTBEAT)
    lose(device, HEARTBEAT)
    device.passes(500, step=1)
    assert device.exit_code == LOST


@pytest.mark.parametrize("refused", [ANNOUNCE, HEARTBEAT])
def test_a_device_that_starts_with_one_subscription_refused_says_so_and_enters_later(
    tmp_path: Path, refused: str
) -> None:
    device = Device(tmp_path, refused={refused: Unavailable("Quota exceeded")}, heartbeat_seconds=10)
    device.passes(60)
    assert (device.ready, hellos(device)) == (0, int(refused != ANNOUNCE))
    assert last_heartbeat(device).connection_error.endswith("not received: Quota exceeded")
    grant(device)
    device.passes(45)
    assert (device.ready, hellos(device)) == (1, 1)
    assert last_heartbeat(device).connection_error == ""


def test_announcements_that_the_broker_drops_silently_are_subscribed_again_within_90_minutes(
    device: Device,
) -> None:
    device.passes(200)
    device.broker.handlers.pop(ANNOUNCE)
    device.passes(90 * 60, step=5)
    assert ANNOUNCE in device.broker.handlers
    assert hellos(device) == 2


def test_announcements_that_arrive_postpone_the_renewal(device: Device) -> None:
    for number in range(1, 7):
        device.passes(3000, step=5)
        device.hears(announcement(number))
        device.finishes()
        device.hears(verdict(number))
    assert device.broker.subscribed.count(ANNOUNCE) == 1


def test_after_every_outage_announcements_are_requested_again_before_the_hello(device: Device) -> None:
    for outage in range(2, 5):
        device.passes(300)
        device.broker.online = False
        device.passes(60)
        device.broker.handlers.pop(ANNOUNCE)  # the broker lost the session
        device.broker.online = True
        device.passes(30)
        assert ANNOUNCE in device.broker.handlers
        assert hellos(device) == outage


def test_a_stalled_link_that_times_requests_out_leaves_nothing_deaf(device: Device) -> None:
    device.passes(200)
    device.broker.deaf = True
    for topic in (ANNOUNCE, HEARTBEAT):
        refuse(device, topic, Unavailable("the nucleus did not answer within 10 s"))
    device.passes(60)
    assert device.broker.subscribed.count(ANNOUNCE) > 1
    assert device.exit_code is None
    grant(device)
    device.broker.deaf = False
    device.passes(60)
    assert (device.exit_code, last_heartbeat(device).connection_error) == (None, "")
    device.hears(announcement())
    assert device.states == ["accepted"]


def test_a_subscription_that_dies_at_once_again_and_again_is_not_requested_in_a_busy_loop() -> None:
    clock = Clock()
    loop = EventLoop(clock)
    requests = 0

    def request() -> None:
        nonlocal requests
        requests += 1
        loop.call_later(0.01, lambda: kept.renew("the stream was closed"))

    rng = random.Random(3)  # noqa: S311 - jitter
    kept = Subscription(
        "topic",
        request,
        loop=loop,
        pauses=lambda: delays(1.0, 30.0, rng),
    )
    kept.renew()
    for _ in range(int(HEALTHY_SECONDS)):
        clock.now += 1
        loop.run_due()
    assert 5 < requests < 20


def test_who_disturbs_the_connection_is_named_by_the_heartbeat(device: Device) -> None:
    device.session._connection_trouble = lambda: "another client has taken over the session " + "x" * 400
    device.passes(30)
    named = last_heartbeat(device).connection_error
    assert named.startswith("another client has taken over the session")
    assert len(named) <= 200


class Hasty(random.Random):
    """The shortest pauses that can be drawn."""

    def random(self) -> float:
        return 0.001

    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


def test_a_process_is_not_ended_before_a_new_subscription_had_the_time_of_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakes.memory_device.random.Random", Hasty)
    device = Device(tmp_path, heartbeat_seconds=60)
    device.broker.deaf = True
    device.passes(4 * 60, step=1)
    device.broker.deaf = False
    device.passes(3 * 60, step=1)
    assert (device.exit_code, hellos(device)) == (None, 2)
