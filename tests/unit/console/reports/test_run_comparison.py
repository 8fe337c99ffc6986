"""Comparing runs: the settings that differ, and a metric by round, time and bytes."""

from typing import Any

import pytest

from fedgrass.console.reports import run_comparison
from fedgrass.console.reports.report_figures import Point
from fedgrass.console.reports.run_comparison import comparison_of, draw, value_at
from fedgrass.console.runs import fleet_operator
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import encode
from tests.fakes.memory_operator import operator_of
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet, update_full_of


def two_runs(**metrics: Any) -> SmallFleet:
    """Return a fleet after two runs of two rounds with one device each, the second with more epochs."""
    fleet = SmallFleet(devices=1, rounds=2)
    fleet.start()
    for accuracy in (0.1, 0.8):
        fleet.pass_time(10)
        fleet.reply("thing-0", metrics=metrics or {"accuracy": accuracy, "loss": 1 - accuracy})
    fleet.bucket.write(object_keys.model("other", 0), encode(INITIAL))
    settings = {"task": "digits", "rounds": 2, "evaluate_last": False, "training": {"epochs": 3}}
    fleet.act("start", "other", settings=settings)
    for accuracy in (0.1, 0.9):
        fleet.pass_time(20)
        fleet.reply("thing-0", fleet.newest("other"), metrics={"accuracy": accuracy, "loss": 1 - accuracy})
    return fleet


def test_differing_settings_come_with_the_values_of_each_run() -> None:
    found = comparison_of(operator_of(two_runs()), [RUN, "other"])
    assert [(each.name, each.values) for each in found.settings] == [("training", [{}, {"epochs": 3}])]


def test_a_metric_is_compared_at_the_models_it_is_of_and_when_it_was_known() -> None:
    fleet = two_runs()
    found = comparison_of(operator_of(fleet), [RUN, "other"])
    assert found.metric == "accuracy"
    first, second = found.runs
    initial, update = len(encode(INITIAL)), len(encode(update_full_of(1.0)))
    made = len(fleet.bucket.objects[object_keys.model(RUN, 1)])
    assert first.points == [
        Point(0, 10.0, initial + update, 0.1),
        Point(1, 20.0, initial + update + made + update, 0.8),
    ]
    assert [point.seconds for point in second.points] == [20.0, 40.0]
    assert (second.last, second.best, second.best_model) == (0.9, 0.9, 1)
    assert second.seconds == 40.0
    assert second.dollars > 0


def test_the_best_loss_is_the_lowest() -> None:
    found = comparison_of(operator_of(two_runs()), [RUN, "other"], "loss")
    assert found.runs[0].best == pytest.approx(0.2)


POINTS = [Point(0, 10.0, 100, 0.1), Point(1, 20.0, 200, 0.8)]


def test_by_time_and_bytes_a_run_has_the_value_that_was_known_by_then_until_it_ended() -> None:
    assert [value_at(POINTS, "time", place) for place in (9, 10, 15, 20, 21)] == [None, 0.1, 0.1, 0.8, None]
    assert [value_at(POINTS, "bytes", place) for place in (99, 150, 200)] == [None, 0.1, 0.8]
    assert [value_at(POINTS, "round", place) for place in (0, 1, 2)] == [0.1, 0.8, None]
    assert value_at([], "time", 3) is None


@pytest.mark.parametrize(
    ("names", "metric", "said"),
    [
        ([RUN, "othre"], "", "there is no run 'othre'"),
        ([RUN, RUN], "", "a run is named twice"),
        ([RUN, "other"], "acuracy", "which none of the runs reported: did you mean 'accuracy'"),
        ([f"r{number}" for number in range(9)], "", "9 runs are too many to compare: at most 8"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    names: list[str], metric: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator_of(two_runs()))
    with pytest.raises(SettingsError, match=said):
        run_comparison.compare("fedgrass", names, "text", metric=metric, by="round", picture=None)


def test_runs_without_a_common_metric_are_compared_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = two_runs(f1=0.5)
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator_of(fleet))
    run_comparison.compare("fedgrass", [RUN, "other"], "text", metric="", by="time", picture=None)
    assert "the runs have no metric in common: name one with --metric" in capsys.readouterr().out


def test_the_text_has_the_settings_first_then_the_runs_then_the_metric(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = two_runs()
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator_of(fleet))
    run_comparison.compare("fedgrass", [RUN, "other"], "text", metric="", by="time", picture=None)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["training", "{}", '{"epochs":3}']
    assert lines[3][:4] == [RUN, "SUCCEEDED", "2", "20.0"]
    assert lines[-1] == ["40.0", "-", "90.0%"]


def test_the_picture_has_a_panel_for_each_measure() -> None:
    assert draw(comparison_of(operator_of(two_runs()), [RUN, "other"])).startswith(b"\x89PNG")
