"""Several rounds of one run that are open at once: a ServerApp does not wait for one to send another."""

import dataclasses
from collections import Counter

import pytest

from cloud_functions.rounds import driver, hellos, sweep
from fedgrass.federation import messages
from fedgrass.federation.errors import NotYet
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.task_messages.round_messages import LONGEST_BACKLOG, MOST_OPEN, TOO_MANY_OPEN
from tests.fakes.memory_cloud import Crash
from tests.fakes.message_fleet import MessageFleet, started
from tests.fakes.small_fleet import RUN


def with_open(*devices: str) -> MessageFleet:
    """Return a fleet with one open round for each of the named devices, in this order."""
    fleet = started(devices=3)
    for device in devices:
        fleet.push([device])
    return fleet


def states(fleet: MessageFleet) -> list[State]:
    return [fleet.sent(number).state for number in range(1, fleet.run().round + 1)]


def test_rounds_are_open_at_the_same_time_and_close_in_any_order() -> None:
    fleet = with_open("thing-0", "thing-1", "thing-2")
    assert states(fleet) == [State.OPEN] * 3
    fleet.answers("thing-2", number=3)
    assert (states(fleet), fleet.run().published) == ([State.OPEN, State.OPEN, State.CLOSED], 0)
    fleet.answers("thing-0", number=1)
    assert (states(fleet), fleet.run().published) == ([State.CLOSED, State.OPEN, State.CLOSED], 1)
    fleet.answers("thing-1", number=2)
    assert (states(fleet), fleet.run().published) == ([State.CLOSED] * 3, 3)


def test_a_round_that_ends_before_an_earlier_one_has_its_manifest_at_once() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.answers("thing-1", number=2)
    assert "rounds/run-1/2.json" in fleet.bucket.objects
    assert "rounds/run-1/1.json" not in fleet.bucket.objects


def test_abandoned_rounds_are_passed_over_like_closed_ones() -> None:
    fleet = with_open("thing-0", "thing-1", "thing-2")
    fleet.status("thing-1", "declined", fleet.sent(2))
    fleet.answers("thing-0", number=1)
    assert (states(fleet), fleet.run().published) == ([State.CLOSED, State.ABANDONED, State.OPEN], 2)


def test_one_device_may_have_messages_in_several_rounds_and_each_reply_counts_in_its_own() -> None:
    fleet = with_open("thing-0", "thing-0")
    fleet.answers("thing-0", number=2, data=b"second")
    fleet.answers("thing-0", number=1, data=b"first")
    assert [fleet.part("thing-0", fleet.sent(number)).answer for number in (1, 2)] == ["Zmlyc3Q=", "c2Vjb25k"]


def test_what_a_reply_reads_does_not_grow_with_the_number_of_open_rounds() -> None:
    def calls(open_rounds: int) -> Counter[str]:
        fleet = started(devices=2)
        for _ in range(open_rounds):
            fleet.push()
        fleet.counter.calls.clear()
        fleet.answers("thing-0", number=open_rounds)
        return Counter(fleet.counter.calls)

    assert calls(30) == calls(1)
    table = {"round", "participant", "count_reply", "run", "rounds_from", "participants", "change_run"}
    assert {name: count for name, count in calls(30).items() if name in table} == {
        "round": 2,  # to count the reply, and to look whether the round is complete
        "participant": 1,
        "count_reply": 1,
        "run": 1,
    }


def test_at_most_so_many_rounds_are_open_at_once() -> None:
    fleet = started(devices=1)
    for _ in range(MOST_OPEN):
        assert "refused" not in fleet.push()
    refused = fleet.push(number=MOST_OPEN + 1)["refused"]
    assert refused.startswith(f"{TOO_MANY_OPEN}: run 'run-1' has 100 open rounds of messages")
    fleet.answers("thing-0", number=50)
    assert fleet.push(number=MOST_OPEN + 1)["round"] == MOST_OPEN + 1


def test_a_round_that_stays_open_does_not_let_the_others_run_away_for_ever() -> None:
    fleet = started(devices=2)
    fleet.push(["thing-1"])
    for number in range(2, LONGEST_BACKLOG + 1):
        assert "refused" not in fleet.push(["thing-0"])
        fleet.answers("thing-0", number=number)
    refused = fleet.push(["thing-0"], number=LONGEST_BACKLOG + 1)["refused"]
    assert refused.startswith(
        f"{TOO_MANY_OPEN}: round 1 of run 'run-1' is still open, and 999 were sent since"
    )
    fleet.answers("thing-1", number=1)
    assert fleet.run().published == LONGEST_BACKLOG
    assert "refused" not in fleet.push(["thing-0"])


def test_the_deadlines_of_open_rounds_are_their_own() -> None:
    fleet = started(devices=1)
    fleet.push(ttl=60)
    fleet.push(ttl=30)
    fleet.pass_time(30)
    fleet.ring()
    assert (states(fleet), fleet.run().published) == ([State.OPEN, State.ABANDONED], 0)
    fleet.pass_time(30)
    fleet.ring()
    assert (states(fleet), fleet.run().published) == ([State.ABANDONED, State.ABANDONED], 2)


@pytest.mark.parametrize(
    ("action", "fields", "state", "reason"),
    [
        ("cancel", {}, RunState.CANCELLED, "the run is CANCELLED: cancelled by the operator"),
        ("finish", {}, RunState.SUCCEEDED, "the run is SUCCEEDED: the ServerApp has ended"),
        (
            "finish",
            {"failed": "ValueError: no round"},
            RunState.FAILED,
            "the run is FAILED: the ServerApp failed: ValueError: no round",
        ),
    ],
)
def test_an_ended_run_gives_all_its_open_rounds_up(
    action: str, fields: dict[str, str], state: RunState, reason: str
) -> None:
    fleet = with_open("thing-0", "thing-1", "thing-2")
    fleet.answers("thing-1", number=2)
    fleet.request(action, **fields)
    assert (fleet.run().state, states(fleet)) == (state, [State.ABANDONED, State.CLOSED, State.ABANDONED])
    assert fleet.sent(3).reason == reason
    fleet.remind()
    assert fleet.run().published == 3
    assert fleet.alarms.standing() == []
    fleet.answers("thing-0", number=1)
    assert fleet.verdicts("thing-0")[-1].reason == "late: this attempt is ABANDONED"


def test_a_run_that_ends_while_a_round_is_being_closed_lets_that_round_close() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.counter.plan_crash(name="write")  # the draft of the manifest
    with pytest.raises(Crash):
        fleet.answers("thing-0", number=1)
    assert states(fleet) == [State.AGGREGATING, State.OPEN]
    fleet.request("finish")
    assert states(fleet) == [State.AGGREGATING, State.ABANDONED]
    fleet.pass_time(61)
    driver.advance(fleet.cloud, RUN)
    assert (states(fleet), fleet.run().published) == ([State.CLOSED, State.ABANDONED], 2)


def test_a_round_that_another_worker_closes_does_not_hold_the_others_up() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.counter.plan_crash(name="write")
    with pytest.raises(Crash):
        fleet.answers("thing-0", number=1)
    fleet.pass_time(30)
    second = fleet.sent(2)
    fleet.rounds.move_participant(second, fleet.part("thing-1", second), Participation.DECLINED, "no")
    with pytest.raises(NotYet):
        driver.advance(fleet.cloud, RUN)
    assert states(fleet) == [State.AGGREGATING, State.ABANDONED]


def test_a_paused_run_sends_nothing_new_and_its_open_rounds_continue() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.request("pause")
    assert fleet.push(number=3)["refused"].startswith("run 'run-1' is PAUSED, and sends no messages")
    fleet.answers("thing-0", number=1)
    assert (states(fleet), fleet.run().published) == ([State.CLOSED, State.OPEN], 1)
    fleet.request("resume")
    assert fleet.push(number=3)["round"] == 3


def test_a_hello_announces_every_message_that_the_device_has_not_answered() -> None:
    fleet = with_open("thing-0", "thing-1", "thing-0", "thing-0")
    fleet.answers("thing-0", number=3)
    fleet.status("thing-0", "accepted", fleet.sent(1))
    before = len(fleet.announced("thing-0"))
    hellos.answer_hello(fleet.cloud, "thing-0")
    assert [work.round for work in fleet.announced("thing-0")[before:]] == [1, 4]


def test_the_sweep_wakes_a_run_whose_alarms_were_lost_and_it_ends_all_overdue_rounds() -> None:
    fleet = with_open("thing-0", "thing-1", "thing-2")
    fleet.answers("thing-1", number=2)
    fleet.remind()
    fleet.alarms.reminders.clear()
    fleet.pass_time(601)
    fleet.deliver({"sweep": {}})
    fleet.remind()
    assert (states(fleet), fleet.run().published) == ([State.ABANDONED, State.CLOSED, State.ABANDONED], 3)


def test_the_sweep_leaves_a_run_alone_whose_rounds_wait_for_replies() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.alarms.reminders.clear()
    fleet.deliver({"sweep": {}})
    assert fleet.alarms.reminders == []


def test_the_sweep_settles_a_run_that_has_ended_once() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.request("finish")
    sweep.sweep(fleet.cloud)
    assert fleet.rounds.unsettled() == []


@pytest.mark.parametrize(
    ("action", "fields", "kept"),
    [("finish", {}, False), ("cancel", {}, False), ("finish", {"failed": "ValueError"}, True)],
)
def test_small_replies_leave_the_table_once_their_server_app_has_ended_for_good(
    action: str, fields: dict[str, str], *, kept: bool
) -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.answers("thing-0", number=1)
    sweep.sweep(fleet.cloud)
    assert fleet.part("thing-0", fleet.sent(1)).answer
    fleet.request(action, **fields)
    sweep.sweep(fleet.cloud)
    assert bool(fleet.part("thing-0", fleet.sent(1)).answer) == kept
    assert fleet.part("thing-0", fleet.sent(1)).state is Participation.REPLIED
    assert fleet.rounds.unsettled() == []


def test_the_replies_of_a_long_run_are_removed_in_several_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_ROUNDS_FORGOTTEN", 2)
    fleet = started(devices=1)
    for _ in range(5):
        fleet.push()
        fleet.all_answer()
    fleet.request("finish")
    for forgotten in (2, 4, 5):
        assert fleet.rounds.unsettled() == [RUN]
        sweep.sweep(fleet.cloud)
        kept = [number for number in range(1, 6) if fleet.part("thing-0", fleet.sent(number)).answer]
        assert kept == list(range(forgotten + 1, 6))
    assert fleet.rounds.unsettled() == []


def test_an_ended_run_whose_worker_crashed_before_it_gave_the_rounds_up_is_woken() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.counter.plan_crash(name="move")
    with pytest.raises(Crash):
        fleet.request("finish")
    assert states(fleet) == [State.OPEN, State.OPEN]
    fleet.alarms.reminders.clear()
    sweep.sweep(fleet.cloud)
    assert fleet.rounds.unsettled() == [RUN]
    fleet.remind()
    assert states(fleet) == [State.ABANDONED, State.ABANDONED]
    sweep.sweep(fleet.cloud)
    assert fleet.rounds.unsettled() == []


def test_a_round_that_ends_while_another_worker_notes_the_end_of_the_one_before_is_noted() -> None:
    """The first worker reads round 2 as open; the second closes it, and finds round 1 not noted as ended."""
    fleet = with_open("thing-0", "thing-1")
    fleet.counter.plan(lambda: fleet.answers("thing-1", number=2), name="change_run")
    fleet.answers("thing-0", number=1)
    assert (states(fleet), fleet.run().published) == ([State.CLOSED, State.CLOSED], 2)


def test_a_worker_that_is_overtaken_does_not_move_the_mark_of_ended_rounds_back() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.answers("thing-1", number=2)
    late = fleet.run()
    fleet.answers("thing-0", number=1)
    assert fleet.run().published == 2
    with pytest.raises(Exception, match="another worker"):
        fleet.rounds.change_run(late, published=1)
    assert fleet.run().published == 2


def test_the_row_of_a_round_that_is_lost_is_named_and_does_not_stop_the_others() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.rounds.lose_round(fleet.sent(1))
    fleet.pass_time(601)
    driver.advance(fleet.cloud, RUN)
    assert fleet.sent(2).state is State.ABANDONED
    assert "the row of round 1 is lost; `fedgrass run repair run-1` rebuilds it" in fleet.log
    assert fleet.run().published == 0


def test_the_mark_of_ended_rounds_stops_before_a_row_that_is_lost() -> None:
    fleet = with_open("thing-0", "thing-1", "thing-2")
    for number in (2, 3):
        fleet.answers(f"thing-{number - 1}", number=number)
    fleet.rounds.lose_round(fleet.sent(2))
    fleet.answers("thing-0", number=1)
    assert fleet.run().published == 1


def test_the_sweep_announces_a_round_whose_worker_crashed_after_it_was_opened() -> None:
    fleet = started(devices=1)
    fleet.counter.plan_crash(name="participants")
    with pytest.raises(Crash):
        fleet.push()
    assert (states(fleet), fleet.announced("thing-0")) == ([State.OPEN], [])
    fleet.alarms.reminders.clear()
    fleet.pass_time(31)  # its lease ends
    sweep.sweep(fleet.cloud)
    fleet.remind()
    assert [work.round for work in fleet.announced("thing-0")] == [1]


def test_a_worker_that_may_not_write_drafts_leaves_the_closing_to_an_averager() -> None:
    fleet = with_open("thing-0", "thing-1")
    initiator = dataclasses.replace(fleet.cloud, can_average=False)
    first = fleet.sent(1)
    reply = messages.decode(fleet.answer_of("thing-0", number=1), messages.Completion)
    fleet.rounds.count_reply(first, fleet.part("thing-0", first), reply, fleet.now)
    driver.advance(initiator, RUN)
    assert states(fleet) == [State.OPEN, State.OPEN]
    fleet.remind()
    assert (states(fleet), fleet.run().published) == ([State.CLOSED, State.OPEN], 1)


def test_such_a_worker_leaves_the_publication_of_a_closed_round_to_an_averager_too() -> None:
    fleet = with_open("thing-0", "thing-1")
    fleet.counter.plan_crash(name="copy_once")
    with pytest.raises(Crash):
        fleet.answers("thing-0", number=1)
    assert (states(fleet), fleet.run().published) == ([State.CLOSED, State.OPEN], 0)
    driver.advance(dataclasses.replace(fleet.cloud, can_average=False), RUN)
    assert fleet.run().published == 0
    fleet.remind()
    assert fleet.run().published == 1
    assert "rounds/run-1/1.json" in fleet.bucket.objects
