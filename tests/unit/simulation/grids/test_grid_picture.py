"""The picture of a grid: a line per cell with the band of its seeds, over rounds and over virtual time."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fedgrass.simulation.grids import grid_picture
from fedgrass.simulation.grids.cell_figures import CellFigures, figures_of
from fedgrass.simulation.grids.grid_file import Target
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.simulated_cells import fake_run_spec


def figures(seed: int, rounds: int = 5) -> CellFigures:
    spec = SimulationSpec(devices=10, seed=seed, settings={"rounds": rounds})
    return figures_of(fake_run_spec(spec, workers=1, report=None))


def drawn(
    monkeypatch: pytest.MonkeyPatch, cells: grid_picture.Curves, target: Target | None = None
) -> Figure:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    grid_picture.draw_grid("lr", cells, "accuracy", target)
    return kept[0]


def test_the_line_is_the_mean_and_the_band_the_range_of_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, [("a", [figures(0), figures(1)]), ("b", [figures(2)])], Target(value=0.3))
    by_round, by_time = figure.axes
    line = by_round.get_lines()[0]
    expected = [
        (one.metrics["accuracy"] + other.metrics["accuracy"]) / 2
        for one, other in zip(figures(0).curve, figures(1).curve, strict=True)
    ]
    assert list(np.asarray(line.get_xdata())) == [0, 1, 2, 3, 4, 5]
    assert list(np.asarray(line.get_ydata())) == pytest.approx(expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert len(by_round.collections) == len(by_time.collections) == 2
    assert by_time.get_xlabel() == "virtual time, s"


def test_over_time_the_band_ends_where_the_first_seed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    _, by_time = drawn(monkeypatch, [("a", [figures(0), figures(0, rounds=3)])]).axes
    assert np.asarray(by_time.get_lines()[0].get_xdata())[-1] == 30.0


def test_long_times_are_drawn_in_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    _, by_time = drawn(monkeypatch, [("a", [figures(0, rounds=1000)])]).axes
    assert by_time.get_xlabel() == "virtual time, hours"


def test_more_cells_than_can_be_told_apart_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, [(f"cell {number}", [figures(0, rounds=2)]) for number in range(14)])
    assert len(figure.axes[0].get_lines()) == grid_picture.MOST_LINES
    assert "the first 12 of 14 cells" in figure.get_suptitle()


def test_cells_without_the_metric_are_left_out() -> None:
    assert grid_picture.draw_grid("lr", [("a", [figures(0)]), ("b", [])], "f1", None).startswith(b"\x89PNG")
