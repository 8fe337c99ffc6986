"""``fedgrass stats``: its options, its tables and pictures, and mistakes of operators."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from matplotlib.image import imread

from fedgrass.console.deferred import Deferred
from fedgrass.console.main import parse, run
from fedgrass.console.statistics import statistics_actions, statistics_picture, statistics_tables
from fedgrass.console.statistics.query_options import query_of
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.statistics.answer_merger import AnswerMerger
from fedgrass.federation.statistics.data_summary import Batch, summarize
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.statistics.statistics_result import StatisticsResult, encode_result


def query(*options: str, other: StatisticsResult | None = None) -> dict[str, Any]:
    """Return the query that the command hands to its action."""
    asked = dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Deferred, "__call__", lambda *_, **given: asked.update(given))
        parse(["stats", "start", "look", "--task", "digits", *options])()
    return query_of(asked["query"], asked["edges"], other)


def result_of(batch: Batch, devices: int = 5, **asked: Any) -> StatisticsResult:
    made = StatisticsQuery(**asked)
    merger = AnswerMerger(made)
    for number in range(devices):
        merger.add(summarize([batch], made, np.random.default_rng(number))[0])
    return merger.result("look", "digits", 1)


RESULT = result_of(
    {
        "x": np.array([1.0, 2.0, np.nan, np.inf]),
        "labels": np.array([1, 1, 2, 3]),
        "other": np.array([5.0, 5.0, 5.0, 5.0]),
    },
    edges={"x": [0, 1.5, 3]},
)


def text_of(result: StatisticsResult) -> list[list[str]]:
    return [
        [str(cell) for column in table.columns for cell in column.cells]
        for table in statistics_tables.tables(result)
    ]


def test_without_options_everything_is_asked_of_all_features() -> None:
    assert query() == {}
    assert parse_settings({"task": "digits", "statistics": query()}).rounds == 2


@pytest.mark.parametrize("statistics", [[], ["--statistics", "histogram", "labels"]])
def test_labels_are_asked_for_with_given_edges_and_need_no_round_to_agree_any(statistics: list[str]) -> None:
    asked = query("--edges", "x=0,1,2", *statistics)
    assert asked["features"] == ["labels", "x"]
    assert parse_settings({"task": "digits", "statistics": asked}).rounds == 1
    again = query(other=RESULT)
    assert again["features"] == ["labels", "other", "x"]


def test_a_result_without_features_names_the_patterns_that_match_none() -> None:
    empty = result_of({"x": np.ones(4)}, features=["y", "z.*"])
    assert list(statistics_tables.notes(empty)) == [
        "no device has a feature that matches: y, z.*; without --features, all are asked for"
    ]


def test_the_options_make_a_query_that_the_cloud_accepts() -> None:
    found = query("--edges", "x=0,1,2", "--statistics", "mean", "histogram", "--minimum-devices", "9")
    assert found == {
        "statistics": ["mean", "histogram"],
        "minimum_devices": 9,
        "edges": {"x": [0.0, 1.0, 2.0]},
        "features": ["x"],
    }
    settings = parse_settings({"task": "digits", "statistics": found})
    assert (settings.rounds, settings.minimum_replies) == (1, 9)


def test_the_edges_of_another_result_are_taken_so_that_one_round_is_enough() -> None:
    found = query("--edges-of", "look", other=result_of({"x": [1.0]}, edges={"x": [0, 3]}))
    assert found == {"edges": {"x": [0.0, 3.0]}, "features": ["x"]}
    assert parse_settings({"task": "digits", "statistics": found}).rounds == 1


@pytest.mark.parametrize("given", ["x", "x=", "=1,2", "x=1,two"])
def test_edges_that_are_no_numbers_are_refused_by_the_option(given: str) -> None:
    with pytest.raises(SettingsError, match=r"--edges is .*it takes FEATURE=E0,E1"):
        query("--edges", given)


def test_a_result_without_histograms_has_no_edges_to_take() -> None:
    with pytest.raises(SettingsError, match="--edges-of is look, whose result has no histograms"):
        query("--edges-of", "look", other=result_of({"x": [1.0]}))


def test_the_tables_have_each_feature_and_its_figures() -> None:
    numbers, labels = text_of(RESULT)
    assert "x" in numbers
    assert {"10", "5", "1.5", "0.5"} <= set(numbers)
    assert labels == ["labels", "5", "20", "0", "1: 10, 2: 5, 3: 5"]


def test_what_is_withheld_is_named_with_the_reason_and_the_features() -> None:
    few = result_of({"x": [1.0], "y": [2.0]}, devices=4)
    lines = list(statistics_tables.notes(few))
    assert "no mean of x, y: 4 devices answered; at least 5 are needed" in lines
    noisy = result_of({"x": [1.0]}, edges={"x": [0, 3]}, epsilon=1.0)
    assert any(line.startswith("no mean of x: 0 devices") and "noise" in line for line in
               statistics_tables.notes(noisy))  # fmt: skip
    assert "counts have noise" in statistics_tables.heading(noisy)


def test_names_from_devices_reach_neither_the_terminal_nor_formulas_of_the_picture() -> None:
    features = {"$x_$\u202e\x9b2J": RESULT.features["other"], **RESULT.features}
    foreign = msgspec.structs.replace(RESULT, features=features)
    assert not any({"\u202e", "\x9b"} & set(cell) for table in text_of(foreign) for cell in table)
    picture = imread(io.BytesIO(statistics_picture.draw(foreign)))
    assert picture.shape[0] > 200
    assert picture.shape[1] > 800


def test_a_picture_of_many_features_has_as_many_panels_as_can_be_read() -> None:
    many = result_of({f"x{number}": np.array([1.0, 2.0]) for number in range(40)})
    figure = statistics_picture.make_figure(many)
    assert len(figure.axes) == statistics_picture.MOST_PANELS
    assert "16 further features are not drawn" in figure.get_suptitle()


def test_a_picture_of_no_feature_is_still_a_picture() -> None:
    assert statistics_picture.draw(result_of({"x": [1.0]}, features=["y"])).startswith(b"\x89PNG")


def test_results_kept_as_files_are_shown_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = tmp_path / "look.json", tmp_path / "look.png"
    file.write_bytes(encode_result(RESULT))
    run(["stats", "show", str(file), "--json", "--picture", str(picture)])
    printed = capsys.readouterr().out
    assert json.loads(printed)["features"]["x"]["count"] == 10
    assert printed.isascii()
    assert picture.read_bytes().startswith(b"\x89PNG")
    run(["stats", "compare", str(file), str(file)])
    printed = capsys.readouterr().out
    assert "stable" in printed
    assert "below 0.1 stable, below 0.25 moderate" in printed


def test_a_file_that_has_no_result_is_refused_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "notes.json"
    file.write_text("{}")
    with pytest.raises(SettingsError, match=r"notes.json is not a result of `fedgrass stats`"):
        run(["stats", "show", str(file)])


class FailedRun:
    """An operator whose run of statistics has failed."""

    def act(self, _action: str, name: str, **_settings: object) -> Run:
        return self.run(name)

    def run(self, name: str) -> Run:
        return Run(
            name=name,
            state=RunState.FAILED,
            reason="all devices failed",
            settings=parse_settings({"task": "noise", "statistics": {}}),
            started_at=1,
            initial_sha256="0" * 64,
            initial_bytes=1,
        )

    def read(self, key: str, _most: int) -> bytes:
        raise KeyError(key)


def test_a_start_whose_run_fails_is_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_actions, "open_operator", lambda _stack: FailedRun())
    monkeypatch.setattr(statistics_actions, "show_run", lambda *_shown: None)
    with pytest.raises(SettingsError, match="run 'look' has no statistics: it is FAILED: all devices failed"):
        run(["stats", "start", "look", "--task", "noise"])
