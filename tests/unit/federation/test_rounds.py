"""The table of a round's transitions, and the next event of a round."""

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from fedgrass.federation import round_metrics
from fedgrass.federation.rounds import (
    PARTICIPATIONS,
    TRANSITIONS,
    Event,
    Participant,
    Participation,
    Round,
    State,
    Work,
    announced_at,
    before,
    explain,
    next_event,
)
from fedgrass.federation.runs import End, Open, Run, RunState, next_step
from fedgrass.federation.settings import RunSettings

NOW = 1_700_000_000_000


def a_round(**changes: Any) -> Round:
    made = Round(
        run="r",
        number=1,
        attempt=1,
        state=State.OPEN,
        asked=10,
        needed=7,
        minimum=3,
        opened_at=NOW,
        deadline_at=NOW + 60_000,
        base_sha256="",
        base_bytes=0,
    )
    return msgspec.structs.replace(made, **changes)


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    asked = draw(st.integers(1, 12))
    replied = draw(st.integers(0, asked))
    declined = draw(st.integers(0, asked - replied))
    failed = draw(st.integers(0, asked - replied - declined))
    return a_round(
        state=draw(st.sampled_from(State)),
        asked=asked,
        needed=draw(st.integers(1, asked)),
        minimum=draw(st.integers(1, 14)),
        replied=replied,
        refused=draw(st.integers(0, replied)),
        declined=declined,
        failed=failed,
        silent=draw(st.integers(0, asked - replied - declined - failed)),
        lease_until=NOW + draw(st.integers(-5, 5)),
        deadline_at=NOW + draw(st.integers(-5, 5)),
    )


@given(rounds(), st.booleans())
def test_the_table_allows_whatever_event_is_due(current: Round, overdue: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    event = next_event(current, NOW, overdue=overdue)
    assert event is None or (current.state, event) in TRANSITIONS


@given(rounds())
def test_an_open_round_that_nothing_moves_waits_for_a_device_or_its_deadline(current: Round) -> None:
    if current.state is State.OPEN and next_event(current, NOW) is None:
        assert current.outstanding > 0
        assert next_event(current, current.deadline_at) is not None


@given(rounds())
def test_an_overdue_round_always_moves_unless_it_has_ended_or_is_averaged(current: Round) -> None:
    event = next_event(current, NOW, overdue=True)
    assert (event is None) == (
        current.state in {State.CLOSED, State.ABANDONED}
        or (current.state is State.AGGREGATING and current.lease_until > NOW)
    )


@given(rounds())
def test_a_round_without_one_good_reply_is_never_averaged(current: Round) -> None:
    if current.state is State.OPEN and current.good == 0:
        averaging = {Event.ENOUGH_REPLIES, Event.DEADLINE_WITH_MINIMUM}
        assert next_event(current, NOW, overdue=True) not in averaging
        assert next_event(current, NOW) not in averaging


@pytest.mark.parametrize(
    ("changes", "event"),
    [
        ({}, None),
        ({"replied": 6}, None),
        ({"replied": 7}, Event.ENOUGH_REPLIES),
        ({"replied": 7, "refused": 1}, None),
        ({"replied": 4, "declined": 6}, Event.ENOUGH_REPLIES),
        ({"declined": 3, "failed": 2, "silent": 2}, None),
        ({"declined": 3, "failed": 3, "silent": 2}, Event.MINIMUM_OUT_OF_REACH),
        ({"replied": 10, "refused": 8}, Event.MINIMUM_OUT_OF_REACH),
        ({"deadline_at": NOW, "replied": 3}, Event.DEADLINE_WITH_MINIMUM),
        ({"deadline_at": NOW, "replied": 2}, Event.DEADLINE_TOO_FEW),
        ({"deadline_at": NOW, "replied": 7}, Event.ENOUGH_REPLIES),
        ({"state": State.AGGREGATING, "lease_until": NOW + 1}, None),
        ({"state": State.AGGREGATING, "lease_until": NOW}, Event.LEASE_EXPIRED),
        ({"state": State.CLOSED, "deadline_at": NOW}, None),
        ({"state": State.ABANDONED, "deadline_at": NOW}, None),
    ],
)
def test_what_happens_next(changes: dict[str, Any], event: Event | None) -> None:
    assert next_event(a_round(**changes), NOW) is event


def test_an_alarm_that_comes_a_moment_early_still_counts() -> None:
    current = a_round(deadline_at=NOW + 1)
    assert next_event(current, NOW) is None
    assert next_event(current, NOW, overdue=True) is Event.DEADLINE_TOO_FEW


def test_the_end_states_are_left_by_nothing() -> None:
    assert not {source for source, _event in TRANSITIONS} & {State.CLOSED, State.ABANDONED}
    assert set(TRANSITIONS.values()) == set(State)


def test_every_event_moves_something() -> None:
    assert {event for _state, event in TRANSITIONS} == set(Event)


def test_a_participant_never_comes_back_to_where_it_was() -> None:
    assert set(PARTICIPATIONS) == set(Participation)

    def after(state: Participation) -> set[Participation]:
        return {*PARTICIPATIONS[state]}.union(*(after(target) for target in PARTICIPATIONS[state]))

    assert all(state not in after(state) for state in Participation)


def test_where_a_participant_may_come_from() -> None:
    at_work = {Participation.ASKED, Participation.ACCEPTED, Participation.SILENT}
    assert before(Participation.REPLIED) == at_work | {Participation.HELD}
    given_up = {Participation.OVERDUE, Participation.STALE}
    assert before(Participation.LATE) == at_work | {Participation.HELD} | given_up
    assert before(Participation.CARRIED) == at_work | {Participation.HELD}
    assert before(Participation.SILENT) == {Participation.ASKED}
    assert before(Participation.REFUSED) == {Participation.REPLIED}
    assert before(Participation.ASKED) == frozenset()


def test_a_turnaround_is_between_two_times_of_the_cloud() -> None:
    asked = Participant(device="d", state=Participation.ASKED, announced_at=NOW)
    assert asked.turnaround_seconds == 0.0
    assert msgspec.structs.replace(asked, received_at=NOW + 1500).turnaround_seconds == 1.5


@given(rounds(), st.sampled_from(Event))
def test_an_explanation_is_one_line_with_the_numbers(current: Round, event: Event) -> None:
    text = explain(current, event)
    assert "\n" not in text
    assert f"({current.good} of {current.asked} replied" in text
    for name in ("refused", "declined", "failed", "silent"):
        count = getattr(current, name)
        assert (f", {count} {name}" in text.partition("(")[2]) == bool(count)
    abandons = event in {Event.DEADLINE_TOO_FEW, Event.MINIMUM_OUT_OF_REACH}
    assert abandons == (f"{current.minimum} needed at least" in text)
    reopens = event is Event.TOO_FEW_GOOD_UPDATES
    assert reopens == (f"{current.needed} needed, {current.minimum} at the deadline" in text)


@given(rounds(), st.integers(0, 12))
def test_losses_that_were_made_up_for_are_never_asked_for_again(current: Round, replaced: int) -> None:
    """A silent device that came back leaves more replacements than losses."""
    left = msgspec.structs.replace(current, replaced=replaced).unreplaced
    assert left == max(0, current.declined + current.failed + current.silent - replaced)


def test_an_announcement_has_the_later_time_of_the_device_and_its_round() -> None:
    for stored, expected in ((NOW - 60_000, NOW), (NOW, NOW), (NOW + 7, NOW + 7)):
        part = Participant(device="d", state=Participation.ASKED, announced_at=stored)
        assert announced_at(a_round(), part) == expected


PARTS = st.builds(
    Participant,
    device=st.just("d"),
    state=st.sampled_from(Participation),
    announced_at=st.just(NOW),
    accepted=st.booleans(),
    bytes=st.integers(0, 1000),
)


@given(PARTS, st.sampled_from(Participation), st.integers(0, 1000))
def test_the_counters_change_by_what_a_participant_was_and_is(
    part: Participant, target: Participation, size: int
) -> None:
    after = round_metrics.moved(part, target, {"bytes": size})
    changed = round_metrics.difference(part, after)
    before, now = round_metrics.tally([part]), round_metrics.tally([after])
    assert {name: before[name] + changed.get(name, 0) for name in before} == now
    assert 0 not in changed.values()
    assert after.accepted or not part.accepted
    assert now["bytes_up"] == (size if target is Participation.REPLIED else 0)


def a_run(**settings: Any) -> Run:
    return Run(
        name="r",
        state=RunState.RUNNING,
        settings=RunSettings(task="t", **settings),
        started_at=NOW,
        initial_sha256="",
        initial_bytes=0,
    )


@pytest.mark.parametrize(
    ("settings", "newest", "step"),
    [
        ({}, None, Open(1, 1)),
        ({}, a_round(), None),
        ({}, a_round(state=State.AGGREGATING), None),
        ({"rounds": 2}, a_round(state=State.CLOSED, attempt=2), Open(2, 1)),
        ({"rounds": 1}, a_round(state=State.CLOSED), End(RunState.SUCCEEDED, "all 1 rounds closed")),
        ({"attempts": 3}, a_round(state=State.ABANDONED, attempt=2), Open(1, 3)),
        (
            {"attempts": 3},
            a_round(state=State.ABANDONED, attempt=3, reason="too few"),
            End(RunState.FAILED, "round 1 was abandoned at attempt 3: too few"),
        ),
        (
            {"on_abandoned": "fail"},
            a_round(state=State.ABANDONED, reason="too few"),
            End(RunState.FAILED, "round 1 was abandoned at attempt 1: too few"),
        ),
        (
            {"attempts": 2},
            a_round(state=State.ABANDONED, work=Work.EVALUATE),
            Open(1, 2, Work.EVALUATE),
        ),
        ({"attempts": 2}, a_round(state=State.ABANDONED, work=Work.EVALUATE, attempt=2), Open(2, 1)),
        ({"on_abandoned": "fail"}, a_round(state=State.ABANDONED, work=Work.EVALUATE), Open(2, 1)),
        (
            {"rounds": 1, "on_abandoned": "fail"},
            a_round(number=2, state=State.ABANDONED, work=Work.EVALUATE),
            End(RunState.SUCCEEDED, "all 1 rounds closed"),
        ),
    ],
)
def test_what_a_run_does_next(
    settings: dict[str, Any], newest: Round | None, step: Open | End | None
) -> None:
    assert next_step(a_run(**settings), newest, NOW) == step


def test_a_run_that_has_ended_does_nothing_more() -> None:
    ended = msgspec.structs.replace(a_run(), state=RunState.FAILED)
    assert next_step(ended, a_round(state=State.CLOSED), NOW) is None
