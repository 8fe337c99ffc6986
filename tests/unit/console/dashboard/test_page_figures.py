from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from fedgrass.console.dashboard.fleet_views import Cell, CellState, RunLine, RunView
from fedgrass.console.dashboard.pages.page_figures import (
    RUN_TONES,
    TONES,
    cost_sentence,
    curve_options,
    held_back_by,
    learning,
    shown_dollars,
    some_names,
)
from fedgrass.federation.runs import RunState
from tests.fakes.fleet_source import HOSTILE, START, FakeFleet, closed_round, open_round

NOW = START + 8 * 60_000 + 1000


def run_with(values: Sequence[float], metric: str = "accuracy", **changes: Any) -> RunView:
    rounds = tuple(
        msgspec.structs.replace(closed_round(number, 4), metrics={metric: value})
        for number, value in enumerate(values, start=1)
    )
    line = RunLine(name="digits-7", state="RUNNING", rounds=20, round=len(values))
    return RunView(line=line, rounds=rounds, **changes)


def cell(device: str, state: CellState, **changes: Any) -> Cell:
    return Cell(device=device, state=state, **changes)


@pytest.mark.parametrize(
    ("values", "metric", "word"),
    [
        ([0.2, 0.4, 0.6, 0.7], "accuracy", "Learning"),
        ([2.0, 1.5, 1.0, 0.7], "loss", "Learning"),
        ([0.2, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8], "accuracy", "Levelled off"),
        ([0.8, 0.7, 0.5, 0.4], "accuracy", "Getting worse"),
        ([0.5, 0.7, 0.9, 1.2], "loss", "Getting worse"),
        ([0.2, 0.9], "accuracy", "Too few rounds"),
        ([], "accuracy", "No figures yet"),
    ],
)
def test_a_run_learns_if_its_last_rounds_are_better_than_those_before(
    values: list[float], metric: str, word: str
) -> None:
    assert learning(run_with(values, metric)).word == word


def test_a_run_that_has_ended_has_learned_if_its_last_model_is_better_than_its_first() -> None:
    ended = RunLine(name="digits-7", state="SUCCEEDED", rounds=8, round=8)
    flat = [0.2, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert learning(msgspec.structs.replace(run_with(flat), line=ended)).word == "Learned"
    assert learning(msgspec.structs.replace(run_with([0.5] * 8), line=ended)).word == "Levelled off"
    worse = [0.2, 0.5, 0.9, 0.9, 0.9, 0.3, 0.3, 0.3]
    assert learning(msgspec.structs.replace(run_with(worse), line=ended)).word == "Getting worse"


def test_the_sentence_has_the_latest_value_the_change_and_the_best_round() -> None:
    verdict = learning(run_with([0.2, 0.4, 0.9, 0.7]))
    assert verdict.sentence == "accuracy 70.0%, +50.0 points over the last 4 rounds; best 90.0% in round 3."


def test_the_metric_of_the_settings_decides_in_the_direction_of_the_settings() -> None:
    run = run_with([0.9, 0.8, 0.5, 0.4], "energy", target_metric="energy", lower_is_better=True)
    assert learning(run).word == "Learning"


def test_a_run_that_waits_for_devices_says_so() -> None:
    assert "no device is eligible" in learning(run_with([], waiting_since=START)).sentence


def test_lost_devices_are_named_with_their_reason_the_most_serious_first() -> None:
    cells = (
        cell("a", CellState.LATE),
        cell("b", CellState.FAILED, reason="failed: out of memory"),
        cell("c", CellState.FAILED, reason="out of memory"),
        cell("d", CellState.FAILED, reason="disk full"),
        cell("e", CellState.REFUSED, reason="not finite"),
        cell("f", CellState.REPLIED, turnaround_seconds=2),
    )
    holds = [(hold.state, hold.devices, hold.reason) for hold in held_back_by(run_with([], cells=cells), NOW)]
    assert holds[0][0] == "failed"
    assert {hold[1] for hold in holds if hold[0] == "failed"} == {("b",), ("c",), ("d",)}
    assert holds[3:] == [
        ("refused", ("e",), "not finite"),
        ("late", ("a",), "replied after the round had ended"),
    ]


def test_devices_that_are_still_at_work_hold_the_round_back_once_the_others_are_done() -> None:
    cells = (
        *(cell(name, CellState.REPLIED, turnaround_seconds=4) for name in "abc"),
        cell("d", CellState.TRAINING, progress=0.4),
    )
    run = run_with([], cells=cells, open_round=open_round(8, 4))
    opened = START + 8 * 60_000
    assert held_back_by(run, opened + 5_000) == []
    (hold,) = held_back_by(run, opened + 60_000)
    assert (hold.state, hold.devices) == ("still at work", ("d",))
    assert hold.reason == "after 60 s, the others took 4.0 s, the slowest at 40%"


def test_slow_devices_are_those_beyond_twice_the_median() -> None:
    cells = (
        *(cell(name, CellState.REPLIED, turnaround_seconds=4) for name in "abc"),
        cell("d", CellState.REPLIED, turnaround_seconds=30),
        cell("e", CellState.REPLIED, turnaround_seconds=7.9),
    )
    (hold,) = held_back_by(run_with([], cells=cells), NOW)
    assert (hold.state, hold.devices) == ("slow", ("d",))
    assert hold.reason == "took up to 30 s, the median is 4.0 s"


def test_every_state_has_a_colour() -> None:
    assert set(TONES) == {state.value for state in CellState}
    assert set(RUN_TONES) == {state.value for state in RunState}


def test_the_cost_at_the_end_is_foretold_only_while_the_run_lives() -> None:
    run = run_with([0.5, 0.6], cost_dollars=0.2)
    assert cost_sentence(run).startswith("About $2.00 after 20 rounds.")
    ended = msgspec.structs.replace(run, line=RunLine(name="x", state="SUCCEEDED", rounds=20))
    assert "About" not in cost_sentence(ended)
    assert "About" not in cost_sentence(msgspec.structs.replace(run, cost_dollars=None))


@pytest.mark.parametrize(
    ("dollars", "text"),
    [(None, "not known"), (0, "$0"), (0.00001, "under $0.0001"), (0.0042, "$0.0042"), (1234.5, "$1,234.50")],
)
def test_amounts_have_as_many_digits_as_they_need(dollars: float | None, text: str) -> None:
    assert shown_dollars(dollars) == text


def test_a_long_list_of_devices_is_cut() -> None:
    assert some_names(["a", "b"]) == "a, b"
    assert some_names([str(at) for at in range(2000)]) == "0, 1, 2 and 1,997 more"


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from keys(inner)


def test_no_text_of_a_device_is_a_key_of_the_chart_which_nicegui_may_evaluate() -> None:
    options = curve_options(run_with([0.5, 0.6, 0.7], ":formatter"))
    assert [name for name in keys(options) if name.startswith(":") or name == HOSTILE] == []


def test_the_curves_of_500_rounds_are_complete() -> None:
    fleet = FakeFleet(devices=3, rounds=501)
    run = fleet.run("digits-7")
    assert run is not None
    line, _, *bars = curve_options(run)["series"]
    assert len(line["data"]) == 500
    assert bars[0]["data"][0] == ["1", 3]


def test_the_legend_stays_on_one_line_also_on_a_phone() -> None:
    assert curve_options(run_with([0.5], "accuracy"))["legend"]["type"] == "scroll"
