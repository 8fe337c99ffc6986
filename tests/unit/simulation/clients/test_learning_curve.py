"""The file of a learning curve: rows, interpolation, and what is wrong with it."""

from pathlib import Path

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.clients.learning_curve import load_curve


def curve(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    return path


def test_metrics_between_two_rows_are_interpolated_and_then_stay(tmp_path: Path) -> None:
    found = load_curve(curve(tmp_path, "round,accuracy,loss\n1,0.2,2\n3,0.4,1\n"))
    assert found.at(2, 10**6) == pytest.approx({"accuracy": 0.3, "loss": 1.5})
    assert [found.at(number, 0)["accuracy"] for number in (0, 1, 3, 9)] == [0.2, 0.2, 0.4, 0.4]


def test_a_curve_by_updates_goes_by_those_that_were_counted(tmp_path: Path) -> None:
    found = load_curve(curve(tmp_path, "updates,accuracy\n0,0\n100,0.5\n"))
    assert found.at(99, 50) == {"accuracy": 0.25}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "first column .* is missing"),
        ("time,accuracy\n", "first column .* is 'time'"),
        ("round\n1\n", "no metrics besides"),
        ("round,accuracy,accuracy\n", "has the column 'accuracy'"),
        ("round,accuracy,\n", "has the column ''"),
        ("round,updates\n", "has the column 'updates'"),
        ("round,accuracy\n", "has no rows"),
        ("round,accuracy\n1,0.5,3\n", "line 2 .* has 3 values"),
        ("round,accuracy\n-1,0.5\n", "line 2 .* has the round -1"),
        ("round,accuracy\n1.5,0.5\n", "line 2 .* has the round 1.5"),
        ("round,accuracy\n2,0.5\n2,0.6\n", "line 3 .* increase"),
        ("round,accuracy\n1,nan\n", "line 2 .* 'nan' in the column 'accuracy'"),
        ("round,accuracy\n1,\n", "line 2 .* no value in the column 'accuracy'"),
        ("round,loss\n1,high\n", "line 2 .* 'high' in the column 'loss'"),
        ("round,accuracy\n1,97.5\n", "line 2 .* from 0 to 1"),
    ],
)
def test_what_is_wrong_with_a_curve_is_named_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load_curve(curve(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.csv cannot be read: No such file"):
        load_curve(tmp_path / "nowhere.csv")
