"""Several runs over one fleet at once, and runs whose worker crashes between any two calls of a port."""

from fractions import Fraction

import pytest

from cloud_functions.rounds import hellos
from fedgrass.federation import object_keys, topics
from fedgrass.federation.messages import NewModel, decode
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import decode as decode_weights
from fedgrass.federation.weights import encode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import FLEET, INITIAL, RUN, SmallFleet

RUNS = {"digits-a": "digits", "digits-b": "digits", "poems": "poetry"}


def with_three_runs(devices: int = 3) -> SmallFleet:
    fleet = SmallFleet(devices=devices)
    fleet.tasks = "digits,poetry"
    fleet.heartbeats()
    for name, task in RUNS.items():
        fleet.bucket.write(object_keys.model(name, 0), encode(INITIAL))
        settings = {"task": task, "rounds": 2, "attempts": 2, "evaluate_last": False}
        fleet.act("start", name, settings=settings)
    return fleet


def first_weight(fleet: SmallFleet, name: str, number: int) -> Fraction:
    model = decode_weights(fleet.bucket.objects[object_keys.model(name, number)])
    return Fraction(float(model["weight"][0, 0]))


def test_several_runs_of_several_tasks_end_over_one_fleet_with_models_of_their_own() -> None:
    fleet = with_three_runs()
    for number in (1, 2):
        for device in fleet.names:
            for place, name in enumerate(RUNS):
                of = fleet.rounds.round(name, number, 1)
                assert of is not None
                fleet.reply(device, of, value=10 * place + number)
    assert {name: fleet.run(name).state for name in RUNS} == dict.fromkeys(RUNS, RunState.SUCCEEDED)
    found = {name: [first_weight(fleet, name, number) for number in (1, 2)] for name in RUNS}
    assert found == {"digits-a": [1, 2], "digits-b": [11, 12], "poems": [21, 22]}
    assert fleet.alarms.standing() == []


def test_each_run_announces_its_own_task() -> None:
    fleet = with_three_runs()
    assert {work.run: work.task for work in fleet.announced("thing-0")} == RUNS


def test_a_device_that_is_busy_with_one_run_is_replaced_in_the_other() -> None:
    fleet = SmallFleet(devices=2)
    for name in ("first", "second"):
        fleet.bucket.write(object_keys.model(name, 0), encode(INITIAL))
        settings = {"task": "digits", "rounds": 1, "selection": "random", "count": 1}
        fleet.act("start", name, settings=settings)
    (busy,) = fleet.parts(fleet.newest("first"))
    (asked,) = fleet.parts(fleet.newest("second"))
    if asked != busy:  # the drawn device reports that it is busy
        busy = asked
    fleet.status(busy, "declined", fleet.newest("second"), reason="busy")
    (other,) = set(fleet.names) - {busy}
    assert fleet.parts(fleet.newest("second")) == {
        busy: Participation.DECLINED,
        other: Participation.ASKED,
    }
    assert set(fleet.parts(fleet.newest("first")).values()) == {Participation.ASKED}


def test_what_happens_to_one_run_happens_to_no_other() -> None:
    fleet = with_three_runs()
    others = [fleet.newest(name) for name in ("digits-b", "poems")]
    fleet.act("cancel", "digits-a")
    assert [fleet.newest(name) for name in ("digits-b", "poems")] == others
    fleet.act("pause", "poems")
    fleet.pass_time(600)
    fleet.ring()
    attempts = {name: (fleet.run(name).state, fleet.run(name).attempt) for name in RUNS}
    assert attempts == {
        "digits-a": (RunState.CANCELLED, 1),
        "digits-b": (RunState.RUNNING, 2),
        "poems": (RunState.PAUSED, 1),
    }


def test_a_hello_is_answered_with_the_open_work_of_every_living_run() -> None:
    fleet = with_three_runs()
    fleet.act("cancel", "digits-a")
    fleet.act("pause", "poems")
    fleet.publisher.published.clear()
    hellos.answer_hello(fleet.cloud, "thing-1")
    assert sorted(work.run for work in fleet.announced("thing-1")) == ["digits-b", "poems"]


def test_a_run_that_waits_does_not_make_its_old_model_the_newest_again() -> None:
    fleet = SmallFleet(devices=1)
    for name, schedule in (("slow", "by_hand"), ("quick", "at_once")):
        fleet.bucket.write(object_keys.model(name, 0), encode(INITIAL))
        fleet.act("start", name, settings={"task": "digits", "rounds": 2, "schedule": schedule})
    slow = fleet.newest("slow")
    fleet.reply("thing-0", slow)
    fleet.reply("thing-0", fleet.newest("quick"))
    fleet.reply("thing-0", slow)  # a copy, much later
    fleet.deliver({"reminder": {"run": "slow"}})
    newest = decode(fleet.bucket.objects[object_keys.latest_model("digits")], NewModel)
    assert (newest.run, newest.round) == ("quick", 1)
    published = [decode(text, NewModel).run for text in fleet.publisher.on(topics.of_models(FLEET, "digits"))]
    assert published == ["slow", "quick"]


# ---------------------------------------------------------------- workers that die
def the_run_goes_on(fleet: SmallFleet) -> None:
    """Check that every device was asked, and that the run succeeds."""
    assert fleet.newest().state is State.OPEN
    assert fleet.newest().announced
    for _ in range(fleet.settings.rounds):
        opened = fleet.newest()
        for device in fleet.parts(opened):
            assert any(work.round == opened.number for work in fleet.announced(device))
            fleet.reply(device, opened)
    assert fleet.run().state is RunState.SUCCEEDED


def calls_of(act: str, *before: str) -> int:
    """Return how many calls of ports an action makes after some other actions."""
    fleet = prepared(*before)
    made = len(fleet.counter.calls)
    fleet.act(act)
    return len(fleet.counter.calls) - made


def prepared(*before: str) -> SmallFleet:
    fleet = SmallFleet(devices=2, on_abandoned="fail", schedule="by_hand" if "close" in before else "at_once")
    fleet.start()
    for word in before:
        if word == "fail":
            fleet.pass_time(600)
            fleet.ring()
        elif word == "close":
            for device in fleet.names:
                fleet.reply(device, fleet.newest())
        else:
            fleet.act(word)
    fleet.alarms.reminders.clear()
    return fleet


def test_a_run_whose_start_crashed_between_any_two_calls_continues_by_its_reminder() -> None:
    whole = SmallFleet(devices=3)
    whole.start()
    calls, stored = whole.counter.calls, 0
    for call in range(1, len(calls) + 1):
        fleet = SmallFleet(devices=3)
        fleet.counter.plan_crash(call=call)
        with pytest.raises(Crash):
            fleet.start()
        fleet.pass_time(60)
        if fleet.rounds.run(RUN) is None:  # the caller knows that the start failed
            fleet.remind()
            assert fleet.rounds.run(RUN) is None
            continue
        stored += 1
        assert Reminder(run=RUN) in fleet.remind()
        the_run_goes_on(fleet)
    assert stored >= 10


@pytest.mark.parametrize(
    ("action", "before"), [("resume", ("pause",)), ("retry", ("fail",)), ("retry", ()), ("next", ("close",))]
)
def test_a_run_whose_change_crashed_between_any_two_calls_continues_by_its_reminder(
    action: str, before: tuple[str, ...]
) -> None:
    for call in range(1, calls_of(action, *before) + 1):
        fleet = prepared(*before)
        old, newest = fleet.run(), fleet.newest()
        fleet.counter.plan_crash(call=call)
        with pytest.raises(Crash):
            fleet.act(action)
        fleet.pass_time(60)
        fleet.remind()
        changed = fleet.run() != old
        if changed and fleet.run().state is RunState.FAILED:  # given up, but not yet granted another attempt
            fleet.act("retry")
        elif not changed:
            assert fleet.newest() == newest  # nothing was left half done
            fleet.act(action)
        assert fleet.run().state is RunState.RUNNING
        assert (fleet.newest().state, fleet.newest().announced) == (State.OPEN, True)
        for device in fleet.parts():
            assert any(work.attempt == fleet.run().attempt for work in fleet.announced(device))


def test_a_run_whose_cancellation_crashed_between_any_two_calls_has_no_open_round_after_its_reminder() -> (
    None
):
    for call in range(1, calls_of("cancel") + 1):
        fleet = prepared()
        fleet.counter.plan_crash(call=call)
        with pytest.raises(Crash):
            fleet.act("cancel")
        fleet.remind()
        cancelled = fleet.run().state is RunState.CANCELLED
        assert fleet.newest().state is (State.ABANDONED if cancelled else State.OPEN)
        if not cancelled:
            fleet.act("cancel")
        assert fleet.newest().state is State.ABANDONED
