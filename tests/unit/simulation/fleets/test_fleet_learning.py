"""A fleet learned from a stack: the conditions that made its rows are found again."""

import statistics
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fedgrass.console.reports.turnaround_rows import Turnaround
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Participation, State, Work
from fedgrass.federation.selection import Candidate
from fedgrass.simulation.fleets import FleetSpec, draw_fleet, fleet_learning
from fedgrass.simulation.fleets.fleet_learning import learn_fleet, learn_stack
from tests.fakes.observed_stack import (
    EXAMPLES,
    MODEL_BYTES,
    RUN,
    START,
    ObservedStack,
    candidate,
    round_of,
    stack_of,
)

LATER = START + 400_000_000  # after the rounds' deadlines
DAY = 86_400_000


def learned(stack: ObservedStack, now: int = LATER) -> FleetSpec:
    for number, one in enumerate(stack.candidates):
        if one.last_seen == START:  # not set by the test
            stack.candidates[number] = replace_seen(one, now)
    return learn_fleet(stack.operator(), now=now)


def replace_seen(one: Candidate, now: int) -> Candidate:
    return (
        candidate(one.device, None, now)
        if not one.attributes
        else Candidate(
            device=one.device,
            last_seen=now,
            tasks=one.tasks,
            examples=one.examples,
            attributes=one.attributes,
        )
    )


@settings(max_examples=15)
@given(st.floats(1e-4, 0.1), st.floats(0, 0.8), st.floats(0, 0.4), st.floats(1e5, 1e7), st.floats(0, 0.5))
def test_a_drawn_fleet_is_recovered_device_by_device(
    median: float, sigma: float, jitter: float, rate: float, dropout: float
) -> None:
    spec = FleetSpec(
        seconds_per_example=f"lognormal({median}, {sigma})",
        jitter=jitter,
        upload=f"lognormal({rate}, 0.5)",
        dropout=dropout,
        attributes={"region": "choice(eu, us)"},
    )
    devices = draw_fleet(spec, 30, 4)
    found = draw_fleet(learned(stack_of(devices, rounds=60)), 0, 1)
    assert [one.name for one in found] == [one.name for one in devices]
    for before, after in zip(devices, found, strict=True):
        tolerance = 0.01 + 0.8 * jitter  # of the median of 30 to 60 trainings, four deviations
        assert after.seconds_per_example == pytest.approx(before.seconds_per_example, rel=tolerance)
        assert after.upload == pytest.approx(before.upload, rel=1e-6)
        assert after.download == pytest.approx(before.download, rel=1e-6)
        assert after.examples == EXAMPLES
        assert after.attributes == before.attributes
        waiting = 2 * before.latency + before.fixed_seconds
        assert 2 * after.latency + after.fixed_seconds == pytest.approx(waiting)
    assert statistics.mean(one.dropout for one in found) == pytest.approx(dropout, abs=0.06)
    assert found[0].jitter == pytest.approx(jitter, rel=0.12, abs=1e-3)


def test_a_larger_fleet_has_the_same_distribution() -> None:
    spec = FleetSpec(seconds_per_example="choice(80 %: 0.01, 20 %: 0.05)", jitter=0)
    found = draw_fleet(learned(stack_of(draw_fleet(spec, 200, 1), rounds=3)), 4000, 2)
    slow = sum(one.seconds_per_example > 0.03 for one in found) / len(found)
    assert slow == pytest.approx(0.2, abs=0.06)


def test_a_device_without_history_is_drawn_from_the_others() -> None:
    stack = stack_of(draw_fleet(FleetSpec(jitter=0), 10, 1), rounds=2)
    known = {round(one.seconds_per_example, 9) for one in draw_fleet(learned(stack), 0, 1)}
    stack.candidates.append(candidate("new-press", None, LATER))
    spec = learned(stack)
    new = next(one for one in draw_fleet(spec, 0, 1) if one.name == "new-press")
    assert round(new.seconds_per_example, 9) in known
    assert "of 10 of 11 devices; 1 without history" in spec.source


def test_it_says_how_much_it_rests_on() -> None:
    stack = stack_of(draw_fleet(FleetSpec(dropout=1), 4, 1) + draw_fleet(FleetSpec(), 4, 2)[3:], rounds=3)
    stack.candidates.append(candidate("gone", None, LATER - 8 * DAY))
    assert learned(stack).source.startswith("learned from 15 device-rounds, ")
    assert "1 not seen for 7 days are left out" in learned(stack).source


def stack_with(states: dict[str, Participation], **changes: Any) -> ObservedStack:
    """Return a stack with one round, in which device ``ok`` replied."""
    stack = ObservedStack()
    row = round_of(1, **changes)
    parts = [
        Participant(device=name, state=state, announced_at=row.opened_at) for name, state in states.items()
    ]
    parts.append(Participant(device="ok", state=Participation.REPLIED, announced_at=row.opened_at))
    stack.rows.append((row, parts, {"ok": Turnaround(seconds=9, train=6, examples=10, bytes=5)}))
    stack.candidates = [candidate(name, None, LATER) for name in (*states, "ok")]
    return stack


def dropout(stack: ObservedStack, now: int = LATER) -> dict[str, float]:
    return {one.name: one.dropout for one in draw_fleet(learned(stack, now), 0, 1)}


EARLY = {"closed_at": round_of(1).opened_at + 5_000}  # enough had replied


@pytest.mark.parametrize("state", [Participation.ASKED, Participation.ACCEPTED, Participation.SILENT])
def test_a_device_that_never_replied_is_lost(state: Participation) -> None:
    found = dropout(stack_with({"a": state}))
    assert found["a"] > 0.6
    assert found["ok"] < 0.4


@pytest.mark.parametrize("state", [Participation.DECLINED, Participation.FAILED, Participation.CARRIED])
def test_a_device_that_answered_anything_is_not_lost(state: Participation) -> None:
    assert dropout(stack_with({"a": state})) == {"a": 0.0, "ok": 0.0}


def test_a_device_still_at_work_after_an_early_close_is_not_lost() -> None:
    stack = stack_with({"a": Participation.ACCEPTED}, **EARLY)
    assert dropout(stack, now=round_of(1).opened_at + 9_000)["a"] == 0
    assert dropout(stack)["a"] > 0.6


def test_a_device_that_dropped_its_work_for_the_next_round_is_not_lost() -> None:
    stack = stack_with({"a": Participation.ACCEPTED}, **EARLY)
    again = round_of(2, opened_at=round_of(1).opened_at + 6_000)
    parts = [Participant(device="a", state=Participation.REPLIED, announced_at=again.opened_at)]
    stack.rows.append((again, parts, {"a": Turnaround(seconds=9, train=6, examples=10)}))
    assert dropout(stack)["a"] == 0


def test_a_late_reply_counts_as_a_reply() -> None:
    stack = stack_with({"a": Participation.LATE})
    stack.rows[0][2]["a"] = Turnaround(seconds=90, train=60, examples=10)
    found = {one.name: one for one in draw_fleet(learned(stack), 0, 1)}
    assert found["a"].seconds_per_example == pytest.approx(60 / 10 / 3)
    assert found["a"].dropout == 0


def test_rows_that_have_expired_are_replaced_by_the_rounds_table() -> None:
    stack = stack_with({})
    row, _, _ = stack.rows[0]
    replied = Participant(
        device="ok",
        state=Participation.REPLIED,
        announced_at=row.opened_at,
        received_at=row.opened_at + 12_000,
        train_seconds=6,
        download_seconds=2,
        upload_seconds=1,
        examples=20,
        bytes=500_000,
    )
    stack.rows[0] = (row, [replied], {})
    (device,) = draw_fleet(learned(stack), 0, 1)
    assert (device.download, device.upload) == (MODEL_BYTES / 2, 500_000)
    assert device.seconds_per_example == pytest.approx(6 / 20 / 3)
    assert 2 * device.latency + device.fixed_seconds == pytest.approx(3)


def test_epochs_of_a_round_count() -> None:
    stack = stack_with({})
    by_round = replace(RUN.settings, training_by_round={"1": {"epochs": 6}})
    stack.found = [replace(RUN, settings=by_round)]
    (device,) = draw_fleet(learned(stack), 0, 1)
    assert device.seconds_per_example == pytest.approx(6 / 10 / 6)


def test_only_ended_rounds_of_training_are_read_the_latest_first() -> None:
    stack = stack_of(draw_fleet(FleetSpec(), 1, 1), rounds=9)
    first = stack.rows[0]
    stack.rows.append((round_of(10, state=State.OPEN), first[1], first[2]))
    stack.rows.append((round_of(11, work=Work.EVALUATE), first[1], first[2]))
    stack.candidates = [candidate("device-00001", None, LATER)]
    spec = learn_fleet(stack.operator(), now=LATER, most_rounds=4)
    assert spec.source.startswith("learned from 4 device-rounds")
    assert stack.rounds_read == 4


def test_times_on_and_off_come_from_the_age_of_heartbeats() -> None:
    stack = stack_of(draw_fleet(FleetSpec(), 40, 1), rounds=1)
    stack.candidates = [
        candidate(one.device, None, LATER - (7_200_000 if number < 10 else 30_000))
        for number, one in enumerate(stack.candidates)
    ]
    spec = learned(stack)
    assert spec.availability
    assert (spec.availability.on, spec.availability.off) == ("exponential(21600)", "exponential(7200)")
    devices = draw_fleet(spec, 1000, 1)
    assert sum(one.is_on(0) for one in devices) / 1000 == pytest.approx(0.75, abs=0.05)


def test_values_that_no_device_can_have_do_no_harm() -> None:
    stack = stack_with({"a": Participation.LATE, "b": Participation.LATE})
    stack.rows[0][2]["a"] = Turnaround(seconds=1e300, train=1e300, upload=1e-300, bytes=1e300, examples=1)
    stack.rows[0][2]["b"] = Turnaround(seconds=0)
    for one in draw_fleet(learned(stack), 0, 1):
        assert 0 <= one.seconds_per_example <= 1e9
        assert 0 <= one.fixed_seconds <= 1e9
        assert one.upload >= 1


def test_a_stack_without_replies_or_devices_is_refused() -> None:
    with pytest.raises(SettingsError, match="--like-fleet finds no reply"):
        learned(ObservedStack())
    stack = stack_with({})
    stack.candidates = [candidate("ok", None, LATER - 30 * DAY)]
    with pytest.raises(SettingsError, match="no device with a heartbeat in the last 7 days, of 1"):
        learned(stack)


def test_a_stack_is_learned_by_its_name_and_its_heartbeat_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of(draw_fleet(FleetSpec(), 4, 1), rounds=1)
    now = round(time.time() * 1000)
    stack.candidates = [
        candidate(one.device, None, now - (700_000 if number else 0))
        for number, one in enumerate(stack.candidates)
    ]
    monkeypatch.setattr(fleet_learning, "open_operator", {"meadow": stack.operator()}.get)
    for seconds, is_off in (("60", True), ("300", False)):
        outputs = {"HeartbeatSeconds": seconds}
        monkeypatch.setattr(fleet_learning.deployed, "outputs", lambda _, found=outputs: found)
        assert (learn_stack("meadow").availability is not None) == is_off


def test_a_fleet_that_is_off_as_a_whole_is_simulated_as_always_on() -> None:
    stack = stack_of(draw_fleet(FleetSpec(), 4, 1), rounds=1)
    stack.candidates = [candidate(one.device, None, LATER - 7_200_000) for one in stack.candidates]
    spec = learned(stack)
    assert spec.availability is None
    assert "the heartbeats show no times off" in spec.source


def test_a_training_that_a_deadline_cut_short_says_nothing_of_the_speed() -> None:
    stack = stack_with({})
    row, parts, turnarounds = stack.rows[0]
    parts[0] = replace(parts[0], partial=True)
    stack.rows[0] = (row, parts, turnarounds)
    assert learned(stack).observed[0].seconds_per_example is None
