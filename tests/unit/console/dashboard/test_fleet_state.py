"""What the dashboard shows of a stack: what it reads, in which order, how much, and after which messages."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_functions.aws.dynamodb_table import marshal
from fedgrass.console.dashboard.fleet_book import subscribed_topics
from fedgrass.console.dashboard.fleet_state import FleetState, opened
from fedgrass.console.topic_feed.topic_subscription import Link, Received, SubscriptionStatus
from fedgrass.federation import messages, topics
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages import Completion, Hello, RoundChange, Status
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunAction, RunState
from fedgrass.federation.topics import Kind
from tests.fakes.memory_stack import FLEET, NOW, OUTPUTS, MemoryStack, ScriptedFeed, everything, received

OF: dict[str, Any] = {"run": "apples", "round": 2, "attempt": 1}
DONE = Completion(**OF, round_id="apples/2/1", announced_at=NOW, bytes=1, checksum="0" * 32, examples=1)


@pytest.fixture
def stack() -> MemoryStack:
    return MemoryStack()


@pytest.fixture
def feed() -> ScriptedFeed:
    return ScriptedFeed()


@pytest.fixture
def state(stack: MemoryStack, feed: ScriptedFeed) -> FleetState:
    return FleetState("fruit", stack.clients, OUTPUTS, feed, stack.clock, region="eu-west-1")


def going_on(stack: MemoryStack) -> None:
    stack.put_run("apples", round=2, attempt=1)
    stack.put_round(
        "apples", 1, metrics={"accuracy": 0.5}, model_sha256="1" * 64, model_bytes=9, closed_at=NOW
    )
    open_round = stack.put_round("apples", 2, State.OPEN)
    stack.put_participants(open_round, {"d1": Participation.ACCEPTED, "d2": Participation.ASKED})
    stack.put_device("d1")
    stack.put_device("d2")


def test_a_run_that_is_going_on_is_shown_with_its_curve_its_cells_and_the_fleet(
    stack: MemoryStack, state: FleetState
) -> None:
    going_on(stack)
    stack.put_run("pears", RunState.SUCCEEDED, started_at=NOW + 1)
    everything(state.read_next, stack)
    overview, run = state.overview(), state.run("apples")
    assert [(line.name, line.state, line.task) for line in overview.runs] == [
        ("apples", "RUNNING", "digits"),
        ("pears", "SUCCEEDED", "digits"),
    ]
    assert (overview.fleet.total, overview.fleet.complete) == (2, True)
    assert run
    assert [(each.number, each.state) for each in run.rounds] == [(1, "CLOSED"), (2, "OPEN")]
    assert run.open_round
    assert run.open_round.number == 2
    assert [(cell.device, cell.state) for cell in run.cells] == [("d1", "accepted"), ("d2", "asked")]
    assert (run.counts, run.unknown) == ({"asked": 1, "accepted": 1}, 0)
    assert [(model.run, model.number, model.parent) for model in overview.models] == [
        ("apples", 1, "apples/0")
    ]


def test_messages_move_the_cells_without_a_read(stack: MemoryStack, state: FleetState) -> None:
    going_on(stack)
    everything(state.read_next, stack)
    before, requests = state.version, len(stack.requests)
    state.receive([received("d1", Kind.STATUS, Status(**OF, state="progress", progress=0.5))])
    state.receive([received("d2", Kind.COMPLETE, DONE)])
    run = state.run("apples")
    assert run
    assert [(cell.state, cell.progress) for cell in run.cells] == [("training", 0.5), ("replied", 1.0)]
    assert state.version > before
    assert len(stack.requests) == requests


def test_messages_of_an_older_round_are_left_out(stack: MemoryStack, state: FleetState) -> None:
    going_on(stack)
    everything(state.read_next, stack)
    old = Status(run="apples", round=1, attempt=1, state="failed", reason="x")
    state.receive([received("d1", Kind.STATUS, old)])
    run = state.run("apples")
    assert run
    assert "failed" not in run.counts


def test_a_change_of_a_round_is_read_at_once(stack: MemoryStack, state: FleetState) -> None:
    going_on(stack)
    everything(state.read_next, stack)
    stack.put_round("apples", 2, metrics={"accuracy": 0.7}, closed_at=NOW + 9000)
    change = RoundChange(run="apples", round=2, attempt=1, state="CLOSED", text="closed")
    state.receive([Received(NOW, topics.of_run(FLEET, "apples"), messages.encode(change))])
    state.read_next()
    run = state.run("apples")
    assert run
    assert run.rounds[-1].metrics == {"accuracy": 0.7}
    assert run.open_round is None


def test_a_new_device_is_read_after_its_hello(stack: MemoryStack, state: FleetState) -> None:
    everything(state.read_next, stack)
    stack.put_device("new")
    state.receive([received("new", Kind.HELLO, Hello())])
    state.read_next()
    assert [line.device for line in state.devices().devices] == ["new"]


def test_a_message_that_is_not_valid_is_counted_and_changes_nothing_else(
    stack: MemoryStack, state: FleetState
) -> None:
    going_on(stack)
    everything(state.read_next, stack)
    counts = [run.counts for run in [state.run("apples")] if run]
    for topic, payload in (
        (f"fedgrass/{FLEET}/clients/d1/status", b"\xff"),
        (f"fedgrass/{FLEET}/clients/d1/complete", b'{"run":"apples"}'),
        (f"fedgrass/{FLEET}/rounds/apples", b"[" * 9999),
        (f"fedgrass/{FLEET}/elsewhere", b"{}"),
    ):
        state.receive([Received(NOW, topic, payload)])
    assert state.overview().unreadable == 4
    assert [run.counts for run in [state.run("apples")] if run] == counts


def test_no_second_has_more_than_ten_read_units_while_a_round_is_open(
    stack: MemoryStack, state: FleetState
) -> None:
    devices = 500
    stack.put_run("apples", round=1, attempt=1)
    open_round = stack.put_round("apples", 1, State.OPEN, asked=devices)
    names = [f"device-{number:05}" for number in range(devices)]
    stack.put_participants(open_round, dict.fromkeys(names, Participation.ASKED))
    for name in names:
        stack.put_device(name)
    spent: list[tuple[float, float]] = []
    spend = state.budget.spend

    def recorded(units: float) -> None:
        spent.append((stack.now, units))
        spend(units)

    state.budget.spend = recorded  # type: ignore[method-assign]
    begin = stack.now
    everything(state.read_next, stack, turns=2000)
    assert state.overview().fleet.complete
    run = state.run("apples")
    assert run
    assert (len(run.cells), run.unknown) == (devices, 0)
    for at, _ in spent:
        assert sum(units for when, units in spent if at <= when < at + 1) <= 10
    assert stack.now - begin > sum(units for _, units in spent) / 10


def test_the_devices_are_read_in_pages_and_not_again_for_each_refresh(
    stack: MemoryStack, state: FleetState
) -> None:
    for number in range(300):
        stack.put_device(f"device-{number:05}", note="x" * 200)
    everything(state.read_next, stack)
    scans = [arguments for _, operation, arguments in stack.requests if operation == "scan"]
    assert all(arguments["Limit"] <= 200 for arguments in scans)
    assert len(scans) > 3
    for _ in range(20):
        state.refresh()
        stack.now += 0.1
        everything(state.read_next, stack)
        state.devices(text="5")
    assert len([1 for _, operation, _ in stack.requests if operation == "scan"]) == len(scans)


def test_a_forgotten_device_disappears_with_the_next_pass(stack: MemoryStack, state: FleetState) -> None:
    stack.put_device("d1")
    stack.put_device("d2")
    everything(state.read_next, stack)
    stack.remove_device("d2")
    stack.now += 11
    everything(state.read_next, stack)
    assert [line.device for line in state.devices().devices] == ["d1"]


def test_a_run_that_ends_is_shown_as_ended(stack: MemoryStack, state: FleetState) -> None:
    going_on(stack)
    everything(state.read_next, stack)
    stack.put_run("apples", RunState.CANCELLED, round=2, attempt=1, reason="the operator ended it")
    stack.now += 2.1
    everything(state.read_next, stack)
    (line,) = state.overview().runs
    assert (line.state, line.reason) == ("CANCELLED", "the operator ended it")


def test_the_curve_of_an_ended_run_is_read_once_a_page_shows_it(
    stack: MemoryStack, state: FleetState
) -> None:
    stack.put_run("apples", RunState.SUCCEEDED, round=1, attempt=1)
    stack.put_participants(stack.put_round("apples", 1), {"d1": Participation.REPLIED})
    everything(state.read_next, stack)
    run = state.run("apples")
    assert run
    assert run.rounds == ()
    state.watch_run("apples")
    everything(state.read_next, stack)
    run = state.run("apples")
    assert run
    assert [each.number for each in run.rounds] == [1]
    assert run.counts == {"replied": 1}
    state.unwatch_run("apples")
    requests = len(stack.requests)
    stack.now += 60
    everything(state.read_next, stack)
    assert state.blocks("apples") == ()
    rereads = stack.requests[requests:]
    assert [operation for service, operation, _ in rereads if service == "dynamodb"] == [
        "query",  # the active runs
        "scan",  # the next pass over the devices
    ]
    state.watch_run("apples")
    everything(state.read_next, stack)
    assert [block.counts for block in state.blocks("apples")] == [{"replied": 1}]


def test_a_failed_run_that_is_retried_is_followed_again(stack: MemoryStack, state: FleetState) -> None:
    stack.put_run("apples", RunState.FAILED, round=1, attempt=1)
    everything(state.read_next, stack)
    stack.put_run("apples", round=1, attempt=2)
    stack.put_participants(stack.put_round("apples", 1, State.OPEN, attempt=2), {"d1": Participation.ASKED})
    stack.now += 2.1
    everything(state.read_next, stack)
    run = state.run("apples")
    assert run
    assert (run.line.state, run.counts) == ("RUNNING", {"asked": 1})


def test_without_a_connection_the_last_state_is_shown_with_the_reason_until_it_comes_back(
    stack: MemoryStack, state: FleetState
) -> None:
    going_on(stack)
    everything(state.read_next, stack)
    stack.is_gone = True
    stack.now += 3
    pauses = [state.read_next() for _ in range(5)]
    overview = state.overview()
    assert pauses == [1.0, 2.0, 5.0, 10.0, 10.0]
    assert not overview.connected
    assert "could not be reached" in overview.trouble.lower() or "Could not connect" in overview.trouble
    assert overview.api.state == "reconnecting"
    assert len(overview.runs) == 1
    stack.is_gone = False
    state.read_next()
    assert state.overview().api.state == "connected"
    assert state.overview().trouble == ""


def test_an_error_of_the_program_is_shown_and_does_not_end_the_reads(
    stack: MemoryStack, state: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(stack.tables, "query", fails)
        assert state.read_next() == 1.0
    assert "internal error" in state.overview().trouble
    state.read_next()
    assert state.overview().api.error == ""


def test_rows_that_another_version_wrote_are_left_out_and_counted(
    stack: MemoryStack, state: FleetState
) -> None:
    going_on(stack)
    stack.put_round("apples", 1, metrics={"accuracy": 0.5}, state=State.CLOSED)
    stack.tables.put_item(
        TableName="rounds",
        Item={"run": {"S": "apples"}, "item": {"S": "round/000000/001"}, "state": {"S": "?"}},
    )
    everything(state.read_next, stack)
    run = state.run("apples")
    assert run
    assert len(run.rounds) == 2
    assert state.overview().unreadable == 1


def test_a_run_whose_row_is_gone_is_shown_with_the_reason(stack: MemoryStack, state: FleetState) -> None:
    going_on(stack)
    everything(state.read_next, stack)
    stack.tables.delete_item(TableName="rounds", Key=marshal({"run": "apples", "item": "run"}))
    stack.now += 3
    everything(state.read_next, stack)
    assert state.run("apples") is None
    (line,) = state.overview().runs
    assert "missing" in line.reason
    version = state.version
    stack.now += 3
    everything(state.read_next, stack)
    assert state.version == version


def test_one_device_is_read_when_it_is_asked_for(stack: MemoryStack, state: FleetState) -> None:
    stack.put_device("d1", examples=99)
    assert state.device("d1").line.examples == 99
    with pytest.raises(SettingsError, match="there is no device 'd2'"):
        state.device("d2")
    stack.is_gone = True
    with pytest.raises(FedgrassError, match="could not be reached"):
        state.device("d1")


def test_a_device_is_shown_with_its_last_rounds_or_with_why_they_cannot_be_read(
    stack: MemoryStack, state: FleetState
) -> None:
    stack.put_device("d1")
    stack.turnarounds = [
        {
            "round_id": "apples/2/1",
            "device": "d1",
            "received_at": NOW,
            "state": "failed",
            "reason": "no memory",
        },
        {
            "round_id": "apples/1/1",
            "device": "d1",
            "received_at": NOW,
            "turnaround_ms": 9000,
            "train_seconds": 4,
        },
    ]
    failed, trained = state.device("d1").turnarounds
    assert (failed.round, failed.state, failed.reason) == (2, "failed", "no memory")
    assert (trained.round, trained.state, trained.seconds, trained.train_seconds) == (1, "completed", 9, 4)
    stack.turnarounds = None
    assert "has no index by-device" in state.device("d1").note


def test_alarms_and_dead_letters_are_read_at_intervals(stack: MemoryStack, state: FleetState) -> None:
    stack.alarms = [
        {"AlarmName": "fruit-DeadLettersWait", "StateValue": "OK"},
        {"AlarmName": "fruit-RunsFail", "StateValue": "ALARM", "AlarmDescription": "a run failed"},
    ]
    stack.dead_letters = 0
    everything(state.read_next, stack)
    stack.now += 0.2
    state.read_next()
    overview = state.overview()
    assert [(alarm.name, alarm.state, alarm.reason) for alarm in overview.alarms] == [
        ("RunsFail", "alarm", "a run failed"),
        ("DeadLettersWait", "ok", ""),
    ]
    reads = len([1 for service, _, _ in stack.requests if service == "cloudwatch"])
    for _ in range(10):
        stack.now += 1
        state.read_next()
    assert len([1 for service, _, _ in stack.requests if service == "cloudwatch"]) == reads


def test_dead_letters_are_received_only_when_their_number_has_changed(
    stack: MemoryStack, state: FleetState
) -> None:
    def receives() -> int:
        return len([1 for _, operation, _ in stack.requests if operation == "receive_message"])

    stack.dead_letters = 3
    everything(state.read_next, stack)
    assert state.overview().dead_letter_count == 3
    before = receives()
    for _ in range(5):
        stack.now += 31
        everything(state.read_next, stack)
    assert receives() == before > 0
    stack.dead_letters = 4
    stack.now += 31
    everything(state.read_next, stack)
    assert receives() > before


def test_a_queue_or_alarms_that_may_not_be_read_leave_the_rest(stack: MemoryStack, state: FleetState) -> None:
    going_on(stack)
    stack.refused = {"cloudwatch", "sqs"}
    everything(state.read_next, stack)
    stack.now += 1
    state.read_next()
    overview = state.overview()
    assert "the alarms cannot be read" in overview.alarms_note
    assert "the dead letters cannot be read" in overview.alarms_note
    assert (overview.api.state, overview.fleet.total) == ("connected", 2)


def test_costs_are_those_of_the_rounds_that_were_read(stack: MemoryStack, state: FleetState) -> None:
    stack.put_run("apples", round=1, attempt=1)
    stack.put_round("apples", 1, accepted=10, replied=10, bytes_up=10_000_000)
    everything(state.read_next, stack)
    run = state.run("apples")
    assert run
    assert run.cost_dollars
    assert 0.0005 < run.cost_dollars < 0.01
    assert state.overview().cost_dollars == run.cost_dollars


def test_messages_that_were_missed_are_made_up_for_by_reads(stack: MemoryStack, feed: ScriptedFeed) -> None:
    going_on(stack)
    state = FleetState("fruit", stack.clients, OUTPUTS, feed, stack.clock)
    everything(state.read_next, stack)
    open_round = stack.put_round("apples", 2, State.OPEN, accepted=2)
    stack.put_participants(open_round, {"d1": Participation.FAILED}, reason="no memory")
    feed.status = SubscriptionStatus(link=Link.RECONNECTING, error="cut")
    state.note_feed()
    assert state.overview().trouble == "cut"
    feed.status = SubscriptionStatus(link=Link.CONNECTED)
    state.note_feed()
    everything(state.read_next, stack)
    run = state.run("apples")
    assert run
    assert run.cells[0].state == "failed"


def eventually(holds: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + 20
    while not holds() and time.monotonic() < ends_at:
        time.sleep(0.01)
    return holds()


def test_its_threads_read_and_receive_until_it_is_closed(stack: MemoryStack, feed: ScriptedFeed) -> None:
    going_on(stack)
    state = FleetState("fruit", stack.clients, OUTPUTS, feed)  # by the real clock
    with opened(state):
        assert eventually(lambda: state.overview().connected and state.overview().fleet.total == 2)
        feed.waiting.append(received("d2", Kind.STATUS, Status(**OF, state="progress", progress=0.5)))
        assert eventually(lambda: bool((run := state.run("apples")) and "training" in run.counts))
    requests = len(stack.requests)
    assert state.overview().topics.state == "closed"
    assert len(stack.requests) == requests


LEVELS = st.sampled_from(
    ["fedgrass", FLEET, "clients", "rounds", "d1", "announce", "status", "complete", "hello", "", "+"]
)
TOPICS = st.lists(LEVELS | st.text(max_size=3), max_size=6).map("/".join)


@given(TOPICS, st.binary(max_size=200) | st.sampled_from([messages.encode(DONE), b"null", b"[]", b"{}"]))
def test_no_message_ends_the_state(topic: str, payload: bytes) -> None:
    state = FleetState("fruit", MemoryStack().clients, OUTPUTS, ScriptedFeed())
    state.receive([Received(NOW, topic, payload)])
    assert state.overview().runs == ()


def test_two_stacks_side_by_side_do_not_mix() -> None:
    north, south = MemoryStack(), MemoryStack()
    north.put_run("apples", round=1, attempt=1)
    south.put_run("apples", RunState.SUCCEEDED)
    south.put_device("d1")
    states = [
        FleetState(name, stack.clients, OUTPUTS, ScriptedFeed(), stack.clock)
        for name, stack in (("north", north), ("south", south))
    ]
    for state, stack in zip(states, (north, south), strict=True):
        everything(state.read_next, stack)
    shown = [state.overview() for state in states]
    assert [(one.stack, one.runs[0].state, one.fleet.total) for one in shown] == [
        ("north", "RUNNING", 0),
        ("south", "SUCCEEDED", 1),
    ]


def test_who_did_what_to_a_run_is_shown(stack: MemoryStack, state: FleetState) -> None:
    stack.put_run("apples", history=(RunAction(at=NOW, action="start", by="arn:aws:iam::1:user/ada"),))
    everything(state.read_next, stack)
    run = state.run("apples")
    assert run
    assert [(one.action, one.by) for one in run.history] == [("start", "arn:aws:iam::1:user/ada")]


def test_heartbeats_are_not_subscribed_to() -> None:
    assert not any("heartbeat" in each or each.endswith("#") for each in subscribed_topics(FLEET))
    assert len(subscribed_topics(FLEET)) <= 8
