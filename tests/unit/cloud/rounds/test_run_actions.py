"""The actions that an operator can request of a run, and their refusals."""

import dataclasses

import pytest

from cloud_functions import averager
from cloud_functions.rounds import run_actions
from fedgrass.federation import object_keys
from fedgrass.federation.errors import NotYet, SettingsError
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import Run, RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet
from tests.unit.cloud.rounds.fleets import everybody_replies, started


# ---------------------------------------------------------------- the event itself
@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"action": "stop", "run": RUN}, "the event's action is 'stop'; it may be one of: start, pause"),
        ({"action": None, "run": RUN}, "the event's action is None; it may be one of: start, pause"),
        ({"action": ["pause"], "run": RUN}, "the event's action is ['pause']"),
        ({"action": "pause"}, "the event names no run: ['action']"),
        ({"action": "pause", "run": 7}, "the event names no run: ['action', 'run']"),
        ({"action": "pause", "run": "a/b"}, "'a/b' cannot name a run"),
        (
            {"run": RUN, "settings": {"task": "digits", "rounds": 0}},
            "the run's rounds is 0: it takes a whole number",
        ),
    ],
)
def test_an_event_that_cannot_be_used_is_refused_with_what_may_be(
    event: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        run_actions.act(started().cloud, event)
    assert said in str(refused.value)


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry", "next", "status"])
def test_whatever_is_asked_of_a_run_that_is_not_there_is_refused_by_its_name(action: str) -> None:
    with pytest.raises(SettingsError, match=r"there is no run 'nobody': .fedgrass run list. lists"):
        started().act(action, "nobody")


def test_an_event_without_an_action_starts_the_run() -> None:
    fleet = SmallFleet()
    run = run_actions.act(fleet.cloud, {"run": RUN, "settings": {"task": "digits"}})
    assert (run.state, run.round) == (RunState.RUNNING, 1)


def test_a_run_that_was_cancelled_is_not_set_going_by_its_start() -> None:
    fleet = started()
    fleet.act("cancel")
    assert fleet.start().state is RunState.CANCELLED
    assert fleet.newest().attempt == 1


def test_status_changes_nothing() -> None:
    fleet = started()
    before = (fleet.run(), fleet.newest(), list(fleet.publisher.published))
    assert fleet.act("status") == fleet.run()
    assert (fleet.run(), fleet.newest(), fleet.publisher.published) == before


# ---------------------------------------------------------------- pause and resume
def test_a_paused_run_closes_its_open_round_and_opens_no_other() -> None:
    fleet = started()
    assert fleet.act("pause").state is RunState.PAUSED
    everybody_replies(fleet)
    assert (fleet.newest().number, fleet.newest().state) == (1, State.CLOSED)
    fleet.pass_time(10_000)
    fleet.ring()
    fleet.remind()
    assert fleet.run().round == 1


def test_a_paused_run_whose_round_is_abandoned_tries_no_other_until_it_is_resumed() -> None:
    fleet = started(attempts=3)
    fleet.act("pause")
    fleet.pass_time(600)
    fleet.ring()
    assert (fleet.newest().attempt, fleet.newest().state) == (1, State.ABANDONED)
    resumed = fleet.act("resume")
    assert (resumed.round, resumed.attempt, fleet.newest().state) == (1, 2, State.OPEN)


def test_a_run_that_is_resumed_opens_the_next_round() -> None:
    fleet = started()
    fleet.act("pause")
    everybody_replies(fleet)
    resumed = fleet.act("resume")
    assert (resumed.state, resumed.round) == (RunState.RUNNING, 2)
    everybody_replies(fleet)
    assert fleet.run().state is RunState.SUCCEEDED


def test_a_run_that_is_resumed_while_its_round_is_open_continues_it() -> None:
    fleet = started()
    opened = fleet.newest()
    fleet.act("pause")
    fleet.act("resume")
    assert fleet.newest() == opened
    assert [len(fleet.announced(name)) for name in fleet.names] == [1, 1]


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_a_run_whose_round_is_being_averaged_can_be_asked_to(action: str) -> None:
    fleet = started(devices=1)
    asked: list[Run] = []
    fleet.counter.plan(lambda: asked.append(fleet.act(action)), name="read_layout")
    everybody_replies(fleet)
    state = RunState.PAUSED if action == "pause" else RunState.CANCELLED
    assert [run.state for run in asked] == [state]
    assert (fleet.run().state, fleet.run().round) == (state, 1)
    assert fleet.newest().state is State.CLOSED


@pytest.mark.parametrize(
    ("action", "state", "said"),
    [
        ("resume", RunState.RUNNING, "run 'run-1' is RUNNING; this action requires PAUSED"),
        ("pause", RunState.PAUSED, "run 'run-1' is PAUSED; this action requires RUNNING"),
        ("next", RunState.PAUSED, "run 'run-1' is PAUSED; this action requires RUNNING"),
        ("retry", RunState.PAUSED, "run 'run-1' is PAUSED; this action requires FAILED or RUNNING"),
        ("pause", RunState.CANCELLED, "run 'run-1' is CANCELLED; this action requires RUNNING"),
        (
            "cancel",
            RunState.CANCELLED,
            "run 'run-1' is CANCELLED; this action requires PAUSED or RUNNING",
        ),
        (
            "retry",
            RunState.CANCELLED,
            "run 'run-1' is CANCELLED; this action requires FAILED or RUNNING",
        ),
        ("resume", RunState.CANCELLED, "run 'run-1' is CANCELLED; this action requires PAUSED"),
    ],
)
def test_what_does_not_fit_the_state_of_a_run_is_refused_and_changes_nothing(
    action: str, state: RunState, said: str
) -> None:
    fleet = started()
    for word in {RunState.PAUSED: ["pause"], RunState.CANCELLED: ["cancel"]}.get(state, []):
        fleet.act(word)
    before = (fleet.run(), fleet.newest())
    with pytest.raises(SettingsError) as refused:
        fleet.act(action)
    assert said in str(refused.value)
    assert (fleet.run(), fleet.newest()) == before


# ---------------------------------------------------------------- cancel
def test_a_cancelled_run_abandons_its_open_round_and_keeps_its_models() -> None:
    fleet = started(rounds=3)
    everybody_replies(fleet)
    cancelled = fleet.act("cancel")
    assert (cancelled.state, cancelled.reason, cancelled.ended_at) == (
        RunState.CANCELLED,
        "cancelled by the operator",
        fleet.now,
    )
    assert (fleet.newest().number, fleet.newest().state) == (2, State.ABANDONED)
    assert fleet.newest().reason.startswith("the operator gave it up")
    assert object_keys.model(RUN, 1) in fleet.bucket.objects
    assert fleet.alarms.standing() == []


def test_a_reply_to_a_run_that_was_cancelled_is_late_and_its_verdict_says_so() -> None:
    fleet = started()
    opened = fleet.newest()
    fleet.act("cancel")
    fleet.reply("thing-0", opened)
    assert fleet.newest().late == 1
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [False]


def test_a_run_whose_cancellation_crashed_half_way_has_no_open_round_after_the_next_message() -> None:
    fleet = started()
    fleet.counter.plan_crash(name="move")
    with pytest.raises(Crash):
        fleet.act("cancel")
    assert (fleet.run().state, fleet.newest().state) == (RunState.CANCELLED, State.OPEN)
    fleet.remind()
    assert fleet.newest().state is State.ABANDONED


def test_a_round_whose_averager_crashed_before_the_run_was_cancelled_is_completed() -> None:
    fleet = started(devices=1)
    opened = fleet.newest()
    fleet.counter.plan_crash(name="create")
    with pytest.raises(Crash):
        fleet.reply("thing-0")
    fleet.act("cancel")
    assert fleet.newest().state is State.AGGREGATING
    fleet.pass_time(61)
    assert fleet.reply("thing-0", opened)  # the message at which the averager crashed is delivered again
    assert (fleet.run().state, fleet.newest().state) == (RunState.CANCELLED, State.CLOSED)


def test_an_averager_that_has_to_wait_reports_it_only_to_its_queue() -> None:
    """The operator's request was performed, although a round is being averaged."""
    fleet = started(devices=1)

    def at_that_moment() -> None:
        with pytest.raises(NotYet):
            averager.take(fleet.cloud, '{"reminder": {"run": "run-1"}}')
        assert fleet.act("next").wanted == 2

    fleet.counter.plan(at_that_moment, name="read_layout")
    everybody_replies(fleet)
    assert fleet.newest().number == 2


def test_an_operators_request_never_averages_and_sends_for_the_averager_instead() -> None:
    fleet = started(devices=2, minimum_replies=1)
    fleet.reply("thing-0")
    fleet.now = fleet.newest().deadline_at
    asked = dataclasses.replace(fleet.cloud, can_average=False)
    run_actions.act(asked, {"action": "pause", "run": "run-1"})
    assert fleet.newest().state is State.OPEN
    assert fleet.alarms.reminders[-1] == (Reminder(run="run-1"), 0)
    fleet.remind()
    closed = fleet.rounds.round("run-1", 1, 1)
    assert closed is not None
    assert closed.state is State.CLOSED


def test_an_operators_request_leaves_the_publishing_of_a_model_to_the_averager() -> None:
    """The function that takes requests may not read drafts or announce a model."""
    fleet = started(devices=2)
    fleet.counter.plan_crash(name="copy_once")
    with pytest.raises(Crash):
        everybody_replies(fleet)
    assert fleet.newest().state is State.CLOSED
    before = len(fleet.counter.calls)
    run_actions.act(dataclasses.replace(fleet.cloud, can_average=False), {"action": "pause", "run": "run-1"})
    assert "copy_once" not in fleet.counter.calls[before:]
    assert fleet.run().published == 0
    assert fleet.alarms.reminders[-1] == (Reminder(run="run-1"), 0)
    fleet.remind()
    assert fleet.run().published == 1
    assert object_keys.model("run-1", 1) in fleet.bucket.objects
