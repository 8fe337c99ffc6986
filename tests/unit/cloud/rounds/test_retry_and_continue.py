"""Rounds that are retried, and runs that continue from a model of another run."""

import pytest

from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import encode
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of
from tests.unit.cloud.rounds.fleets import everybody_replies, failed, started, stored


# ---------------------------------------------------------------- retry
def test_an_open_round_is_given_up_and_tried_again_from_the_same_model() -> None:
    fleet = started()
    first = fleet.newest()
    fleet.reply("thing-0", first)
    retried = fleet.act("retry")
    given_up = stored(fleet, 1)
    assert (given_up.state, given_up.closed_at) == (State.ABANDONED, fleet.now)
    assert given_up.reason == "the operator gave it up (1 of 2 replied)"
    assert (retried.round, retried.attempt, fleet.newest().state) == (1, 2, State.OPEN)
    assert fleet.newest().base_sha256 == first.base_sha256
    assert f"abandoned: {given_up.reason}" in [change.text for change in fleet.told()]
    assert [alarm.attempt for alarm in fleet.alarms.standing()] == [2]


def test_a_run_that_failed_is_tried_again_with_as_many_attempts_as_at_first() -> None:
    fleet = failed(attempts=2)
    retried = fleet.act("retry")
    assert (retried.state, retried.attempt, retried.reason, retried.ended_at) == (RunState.RUNNING, 3, "", 0)
    fleet.pass_time(600)
    fleet.ring()
    assert fleet.run().attempt == 4
    fleet.pass_time(600)
    fleet.ring()
    assert (fleet.run().state, fleet.run().attempt) == (RunState.FAILED, 4)


def test_attempts_that_were_granted_at_one_round_are_not_granted_at_the_next() -> None:
    fleet = failed(on_abandoned="fail")
    fleet.act("retry")
    everybody_replies(fleet)
    assert fleet.newest().number == 2
    fleet.pass_time(600)
    fleet.ring()
    assert (fleet.run().state, fleet.run().attempt) == (RunState.FAILED, 1)


def test_a_run_that_failed_between_two_rounds_for_want_of_devices_can_be_retried() -> None:
    fleet = started(devices=1, on_abandoned="fail")
    fleet.now += 400_000
    fleet.reply("thing-0")
    fleet.look(600)
    assert (fleet.run().state, fleet.newest().state) == (RunState.FAILED, State.ABANDONED)
    fleet.heartbeats()
    retried = fleet.act("retry")
    assert (retried.state, retried.round, retried.attempt) == (RunState.RUNNING, 2, 2)
    assert fleet.newest().state is State.OPEN


def test_a_retry_of_a_run_that_waits_for_its_next_round_is_refused() -> None:
    fleet = started(schedule="by_hand")
    everybody_replies(fleet)
    with pytest.raises(SettingsError, match="round 1 of run 'run-1' is CLOSED: only OPEN and ABANDONED"):
        fleet.act("retry")


def test_a_retry_of_a_run_that_succeeded_is_refused() -> None:
    fleet = started(rounds=1)
    everybody_replies(fleet)
    with pytest.raises(SettingsError, match="is SUCCEEDED; this action requires FAILED or RUNNING"):
        fleet.act("retry")


def test_a_round_that_closes_at_the_moment_of_its_retry_stays_closed() -> None:
    fleet = started(devices=1, schedule="by_hand")
    fleet.counter.plan(lambda: fleet.reply("thing-0"), name="change_run")
    with pytest.raises(SettingsError, match="is CLOSED: only OPEN and ABANDONED rounds can be retried"):
        fleet.act("retry")
    assert (fleet.newest().state, fleet.newest().attempt) == (State.CLOSED, 1)


def test_a_reply_after_the_retry_was_noted_does_not_close_the_attempt_that_is_given_up() -> None:
    fleet = started(devices=1, schedule="by_hand")
    fleet.counter.plan(lambda: fleet.reply("thing-0"), name="move")
    assert fleet.act("retry").attempt == 2
    assert [fleet.rounds.round(RUN, 1, attempt).state for attempt in (1, 2)] == [State.ABANDONED, State.OPEN]  # type: ignore[union-attr]


# ---------------------------------------------------------------- continue from
OLD = "older"


def with_an_old_model() -> tuple[SmallFleet, bytes]:
    fleet = SmallFleet(devices=1)
    model = encode(update_full_of(3.0))
    fleet.bucket.objects.clear()
    fleet.bucket.write(object_keys.model(OLD, 4), model)
    return fleet, model


def test_a_run_continues_from_the_model_of_another_run() -> None:
    fleet, model = with_an_old_model()
    for _ in range(2):  # the second changes nothing
        run = fleet.act("start", settings={"task": "digits"}, continue_from={"run": OLD, "round": 4})
    assert (run.state, run.round) == (RunState.RUNNING, 1)
    assert run.continued_from == object_keys.model(OLD, 4)
    assert fleet.bucket.objects[object_keys.model(RUN, 0)] == model
    (heard,) = fleet.announced("thing-0")
    assert (heard.model_key, heard.model_bytes) == (object_keys.model(RUN, 0), len(model))


@pytest.mark.parametrize("known_by", ["row", "manifest"])
def test_a_model_of_another_task_is_refused_with_both_tasks(known_by: str) -> None:
    fleet = started(devices=1, rounds=1)
    fleet.reply("thing-0")
    if known_by == "manifest":
        fleet.rounds.lose(runs=True)
    fleet.tasks = "digits,poetry"
    fleet.heartbeats()
    source = {"run": RUN, "round": 1}
    with pytest.raises(SettingsError, match="run 'run-1' trained the task 'digits', but 'poems' trains"):
        fleet.act("start", "poems", settings={"task": "poetry"}, continue_from=source)
    assert object_keys.model("poems", 0) not in fleet.bucket.objects
    started_run = fleet.act("start", "more", settings={"task": "digits"}, continue_from=source)
    assert started_run.round == 1


def test_a_model_of_a_run_whose_row_and_manifest_are_gone_is_accepted_and_logged() -> None:
    fleet, _model = with_an_old_model()
    fleet.act("start", settings={"task": "digits"}, continue_from={"run": OLD, "round": 4})
    assert "continues from run 'older', whose task is not known" in fleet.log


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"run": OLD, "round": 5}, "there is no model models/older/5.safetensors to continue from"),
        ({"run": "other", "round": 4}, "there is no model models/other/4.safetensors"),
        ({"run": OLD}, 'it takes {"run": name, "round": number}'),
        ({"run": OLD, "round": "4"}, "continue_from is"),
        ({"run": OLD, "round": -1}, "continue_from is"),
        ({"run": OLD, "round": True}, "continue_from is"),
        ("older/4", "continue_from is 'older/4'"),
        ({"run": "../updates", "round": 4}, "'../updates' cannot name a run"),
    ],
)
def test_a_model_that_cannot_be_continued_from_is_refused(source: object, said: str) -> None:
    fleet, _model = with_an_old_model()
    with pytest.raises(SettingsError) as refused:
        fleet.act("start", settings={"task": "digits"}, continue_from=source)
    assert said in str(refused.value)
    assert fleet.rounds.run(RUN) is None
    assert object_keys.model(RUN, 0) not in fleet.bucket.objects


def test_a_run_that_has_another_initial_model_cannot_continue_from_one() -> None:
    fleet, _model = with_an_old_model()
    fleet.bucket.write(object_keys.model(RUN, 0), encode(update_full_of(9.0)))
    with pytest.raises(
        SettingsError, match="'run-1' already has a different initial model: choose another name"
    ):
        fleet.act("start", settings={"task": "digits"}, continue_from={"run": OLD, "round": 4})
