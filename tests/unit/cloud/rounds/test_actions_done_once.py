"""An action that is delivered twice is performed once: Lambda and EventBridge deliver at least once."""

from typing import Any

import msgspec
import pytest

from cloud_functions import initiator, wiring
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import MOST_ACTIONS, RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet


class Context:
    """The context that Lambda passes to the initiator, with the id of the request."""

    def __init__(self, request: str = "request-1") -> None:
        self.aws_request_id = request

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def closes(fleet: SmallFleet) -> None:
    """Have every device reply to the open round."""
    opened = fleet.newest()
    assert opened.state is State.OPEN
    for device in fleet.parts(opened):
        fleet.reply(device, opened)


def started(**settings: Any) -> SmallFleet:
    fleet = SmallFleet(**{"rounds": 9, "attempts": 5, "schedule": "by_hand", **settings})
    fleet.start()
    return fleet


def test_next_delivered_twice_opens_one_round() -> None:
    fleet = started()
    closes(fleet)
    fleet.act("next", id="click-1")
    closes(fleet)
    fleet.act("next", id="click-1")
    fleet.remind()
    assert (fleet.run().round, fleet.newest().state) == (2, State.CLOSED)


def test_two_clicks_open_two_rounds() -> None:
    fleet = started()
    closes(fleet)
    for click in ("click-1", "click-2"):
        fleet.act("next", id=click)
        closes(fleet)
    assert fleet.run().round == 3


def test_retry_delivered_twice_burns_one_attempt() -> None:
    fleet = started()
    for _ in range(2):
        assert fleet.act("retry", id="click-1").attempt == 2
    assert fleet.act("retry", id="click-2").attempt == 3


@pytest.mark.parametrize("call", range(1, 20))
def test_a_retry_that_crashed_anywhere_and_is_delivered_again_costs_one_attempt(call: int) -> None:
    fleet = started()
    fleet.counter.plan_crash(call=call)
    try:
        fleet.act("retry", id="click-1")
    except Crash:
        fleet.counter.forget_plans()
        fleet.remind()  # another worker may advance the run before the retry
        fleet.act("retry", id="click-1")
    assert (fleet.run().attempt, fleet.newest().state) == (2, State.OPEN)
    states = [of.state for of in fleet.rounds._rounds.values()]
    assert states == [State.ABANDONED, State.OPEN]


@pytest.mark.parametrize(
    ("action", "opposite", "state"),
    [("pause", "resume", RunState.RUNNING), ("resume", "pause", RunState.PAUSED)],
)
def test_a_late_copy_does_not_undo_what_was_asked_since(action: str, opposite: str, state: RunState) -> None:
    fleet = started()
    if action == "resume":
        fleet.act("pause", id="before")
    fleet.act(action, id="1")
    fleet.act(opposite, id="2")
    assert fleet.act(action, id="1").state is state


def test_a_copy_of_a_cancel_is_answered_as_the_first() -> None:
    fleet = started()
    for _ in range(2):
        assert fleet.act("cancel", id="1").state is RunState.CANCELLED
    with pytest.raises(SettingsError, match="is CANCELLED"):
        fleet.act("cancel", id="2")


def test_a_late_copy_of_a_start_changes_nothing() -> None:
    fleet = started()
    closes(fleet)
    fleet.act("cancel", id="1")
    before = fleet.run()
    settings = msgspec.to_builtins(fleet.settings)
    assert fleet.act("start", settings=settings, id="start") == before


def test_two_actions_at_the_same_moment_are_both_remembered() -> None:
    fleet = started()
    closes(fleet)
    fleet.counter.plan(lambda: fleet.act("pause", id="1"), name="change_run")
    with pytest.raises(SettingsError, match="is PAUSED"):
        fleet.act("next", id="2")
    fleet.act("resume", id="3")
    assert fleet.act("pause", id="1").state is RunState.RUNNING


def test_actions_that_leave_the_state_are_both_remembered_at_the_same_moment() -> None:
    fleet = started()
    fleet.counter.plan(lambda: fleet.act("next", id="1"), name="change_run")
    fleet.act("next", id="2")
    assert fleet.run().has_done("1")
    assert fleet.run().has_done("2")
    assert fleet.run().actions == 2


def test_a_run_whose_action_crashed_before_driving_it_is_driven_on_by_the_copy() -> None:
    fleet = started()
    closes(fleet)
    fleet.counter.plan_crash(name="open_round")
    with pytest.raises(Crash):
        fleet.act("next", id="1")
    assert fleet.act("next", id="1").round == 2


def test_a_run_remembers_a_bounded_number_of_actions() -> None:
    fleet = started()
    for number in range(MOST_ACTIONS + 5):
        fleet.act("next", id=f"click-{number}" + "x" * 900)
    run = fleet.run()
    assert (len(run.done), run.actions) == (MOST_ACTIONS, MOST_ACTIONS + 5)
    assert sum(map(len, run.done)) < 2000
    assert not run.has_done("click-0" + "x" * 900)
    assert run.has_done("click-5" + "x" * 900)


@pytest.mark.parametrize("bad", [5, ["a"], "x" * 1025])
def test_an_id_that_is_not_a_short_string_is_refused(bad: object) -> None:
    with pytest.raises(SettingsError, match=r"the event's id is .* takes a text of at most 1024 characters"):
        started().act("pause", id=bad)


# ---------------------------------------------------------------- where the id comes from
@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> SmallFleet:
    """A fleet whose run waits for `next`, behind the initiator's handler."""
    fleet = started()
    closes(fleet)
    monkeypatch.setattr(wiring, "services", lambda *_, **__: fleet.cloud)
    return fleet


def ask(fleet: SmallFleet, event: dict[str, Any], request: str) -> None:
    """Have the initiator perform the action of an event, and close the round that it opens."""
    assert "refused" not in initiator.handler(event, Context(request))
    if fleet.newest().state is State.OPEN:
        closes(fleet)


def test_lambda_repeats_an_asynchronous_event_with_the_id_of_its_request(waiting: SmallFleet) -> None:
    event = {"action": "next", "run": RUN}
    ask(waiting, event, "request-1")
    ask(waiting, event, "request-1")
    assert waiting.run().round == 2
    ask(waiting, event, "request-2")
    assert waiting.run().round == 3


def test_the_events_own_id_counts_where_its_source_delivers_twice(waiting: SmallFleet) -> None:
    event = {"action": "next", "run": RUN, "id": "schedule/nightly 2026-11-29T00:00:00Z"}
    ask(waiting, event, "request-1")
    ask(waiting, event, "request-2")
    assert waiting.run().round == 2
    ask(waiting, {**event, "id": "schedule/nightly 2026-11-30T00:00:00Z"}, "request-3")
    assert waiting.run().round == 3


def test_an_event_of_a_bus_has_the_id_that_eventbridge_gave_it(waiting: SmallFleet) -> None:
    event = {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "nightly",
        "source": "our.timer",
        "detail": {"action": "next", "run": RUN},
    }
    ask(waiting, event, "request-1")
    ask(waiting, event, "request-2")
    assert waiting.run().round == 2


@pytest.mark.parametrize("event", [None, [], "pause", 7])
def test_an_event_that_is_no_object_is_refused_with_what_it_takes(event: object) -> None:
    assert initiator.handler(event, Context())["refused"].startswith("the event is not a JSON object")
