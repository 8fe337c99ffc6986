"""What every ``Messaging`` and ``Host`` of a device does: in memory, over Greengrass IPC, and over MQTT."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from components.runtime.component_errors import ConnectionLost, Forbidden, Unavailable
from tests.contracts.device_ports import ANNOUNCE, DEPLOYED, HELLO, HOSTS, PATIENCE, Inbox, Side, host_side
from tests.emulator.local_core import eventually


@pytest.fixture(params=HOSTS)
def side(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    with host_side(request.param, tmp_path, monkeypatch) as side:
        yield side


# ---------------------------------------------------------------- Messaging


@pytest.mark.parametrize("qos", [0, 1])
def test_a_published_message_reaches_the_cloud(side: Side, qos: int) -> None:
    side.host.publish(HELLO, b"hello \x00\xff", qos)
    eventually(lambda: side.received() == [(HELLO, b"hello \x00\xff")], PATIENCE)


def test_a_subscription_delivers_the_messages_of_its_topic_in_order(side: Side) -> None:
    inbox = Inbox()
    side.host.subscribe(ANNOUNCE, inbox, 1)
    for payload in (b"1", b"2", b"", b"4"):
        side.deliver(ANNOUNCE, payload)
    side.deliver(HELLO, b"another topic")
    side.deliver(ANNOUNCE, b"5")
    inbox.waits_for(b"1", b"2", b"", b"4", b"5")


def test_a_device_receives_what_it_publishes_to_a_topic_it_is_subscribed_to(side: Side) -> None:
    """The heartbeat watchdog depends on this echo."""
    inbox = Inbox()
    side.host.subscribe(HELLO, inbox, 0)
    side.host.publish(HELLO, b"beat", 0)
    inbox.waits_for(b"beat")


def test_a_new_subscription_replaces_the_former_one(side: Side) -> None:
    former, inbox = Inbox(), Inbox()
    side.host.subscribe(ANNOUNCE, former, 1)
    side.host.subscribe(ANNOUNCE, inbox, 1)
    side.deliver(ANNOUNCE, b"1")
    inbox.waits_for(b"1")
    side.deliver(ANNOUNCE, b"2")
    inbox.waits_for(b"1", b"2")
    assert former.payloads in ([], [b"1"])  # what arrives while the two change over may come twice


def test_nothing_arrives_after_unsubscribing(side: Side) -> None:
    inbox, other = Inbox(), Inbox()
    side.host.subscribe(ANNOUNCE, inbox, 1)
    side.host.subscribe(HELLO, other, 1)
    side.host.unsubscribe(ANNOUNCE)
    side.host.unsubscribe(ANNOUNCE)
    side.host.unsubscribe("fedgrass/plant/clients/press-1/never")
    side.host.publish(HELLO, b"marker", 1)  # comes after the unsubscribing, and is answered after it
    other.waits_for(b"marker")
    side.deliver(ANNOUNCE, b"late")
    side.deliver(HELLO, b"after it")
    other.waits_for(b"marker", b"after it")
    assert inbox.payloads == []


def test_a_refused_subscription_raises_and_leaves_the_others(side: Side) -> None:
    inbox = Inbox()
    side.host.subscribe(ANNOUNCE, inbox, 1)
    with pytest.raises((Forbidden, Unavailable)):
        side.host.subscribe(side.refused, Inbox(), 1)
    side.deliver(ANNOUNCE, b"1")
    inbox.waits_for(b"1")


def test_without_a_connection_publishing_and_subscribing_raise(side: Side) -> None:
    side.disconnect()
    with pytest.raises((Unavailable, ConnectionLost)):
        side.host.publish(HELLO, b"lost", 0)
    with pytest.raises((Unavailable, ConnectionLost)):
        side.host.subscribe(ANNOUNCE, Inbox(), 1)
    assert side.received() == []


# ---------------------------------------------------------------- Host


def test_the_deployed_configuration_is_returned(side: Side) -> None:
    found = side.host.configuration()
    assert {name: found[name] for name in DEPLOYED} == DEPLOYED


def test_a_change_of_the_configuration_is_reported_and_can_be_read(side: Side) -> None:
    changes: list[int] = []
    side.host.watch_configuration(lambda: changes.append(1))
    assert changes == []
    side.change({"heartbeat_seconds": 7})
    eventually(lambda: changes, PATIENCE)
    assert side.host.configuration()["heartbeat_seconds"] == 7
    assert side.host.configuration()["fleet"] == "plant"


def test_the_loss_of_one_subscription_is_reported_with_its_topic(side: Side) -> None:
    reported: list[tuple[str, str]] = []
    side.host.watch_subscriptions(lambda topic, reason: reported.append((topic, reason)))
    side.host.subscribe(ANNOUNCE, Inbox(), 1)
    assert reported == []
    side.lose(ANNOUNCE)
    eventually(lambda: reported, PATIENCE)
    ((topic, reason),) = reported
    assert topic == ANNOUNCE
    assert reason
    assert "\n" not in reason
    assert side.lost == []  # the connection itself stays


def test_a_healthy_connection_reports_no_trouble(side: Side) -> None:
    assert side.host.trouble() == ""


def test_updates_are_announced_or_watching_them_is_refused(side: Side) -> None:
    """Nucleus Lite does not ask before an update, which the session has to learn."""
    asked: list[str] = []
    with suppress(Unavailable):
        side.host.watch_updates(asked.append)
    assert asked == []


def test_the_port_of_the_token_exchange_is_a_port_or_unknown(side: Side) -> None:
    port = side.host.token_exchange_port()
    assert port is None or 0 < port < 65536


def test_that_the_device_runs_can_be_reported_again_and_again(side: Side) -> None:
    side.host.report_running()
    side.host.report_running()


def test_closing_is_not_a_loss_and_may_be_repeated(side: Side) -> None:
    reported: list[str] = []
    side.host.watch_subscriptions(lambda topic, _: reported.append(topic))
    side.host.subscribe(ANNOUNCE, Inbox(), 1)
    side.host.close()
    side.host.close()
    with pytest.raises((Unavailable, ConnectionLost)):
        side.host.publish(HELLO, b"too late", 1)
    assert (side.lost, reported) == ([], [])
