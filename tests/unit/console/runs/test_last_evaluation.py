"""The evaluation of the last model: in the table, in a line, and in the picture of a run."""

import io
from typing import Any

import pytest
from rich.console import Console

from fedgrass.console.runs import history, history_picture
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.weights import checksum
from tests.fakes.small_fleet import RUN, SmallFleet


def summaries(**settings: Any) -> list[dict[str, Any]]:
    """Return the rounds of a run that trains one round."""
    fleet = SmallFleet(devices=2, rounds=1, **settings)
    fleet.start()
    for name in fleet.names:
        fleet.reply(name, metrics={"accuracy": 0.25, "local_accuracy": 0.5})
    if fleet.newest().number == 2:
        for name in fleet.names:
            fleet.reply(name, bytes=0, checksum=checksum(b""), metrics={"accuracy": 0.875})
    records = []
    for number in range(1, fleet.run().round + 1):
        found = fleet.rounds.round(RUN, number, 1)
        assert found is not None
        records.append(RoundRecord(found, list(fleet.rounds.participants(found))))
    return [history.summarize(record, {}) for record in records]


def test_the_line_names_the_model_and_who_measured_it() -> None:
    line = history.last_evaluation(summaries(evaluate_last=True))
    assert line == "model 1, evaluated by 2 devices on their own data: accuracy 0.875"
    assert history.last_evaluation(summaries(evaluate_last=False)) == ""
    assert history.last_evaluation([]) == ""


def test_the_table_has_a_line_for_the_evaluation() -> None:
    output = io.StringIO()
    Console(file=output, width=100).print(history.table(summaries(evaluate_last=True)))
    lines = [line for line in output.getvalue().splitlines() if "%" in line]
    assert "25.0/50.0%" in lines[0]
    assert "87.5%" in lines[1]
    assert "evaluate" in output.getvalue()


def test_the_picture_shows_the_last_model(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[tuple[int, float]]] = {}
    plot = history_picture._plot

    def noting(axes: Any, points: Any, style: str, color: str, label: str) -> None:
        drawn[label] = list(points)
        plot(axes, points, style, color, label)

    monkeypatch.setattr(history_picture, "_plot", noting)
    picture = history_picture.draw("run", summaries(evaluate_last=True), {})
    assert drawn["mean of the devices, weighted by examples"] == [(0, 0.25), (1, 0.875)]
    assert len(picture) > 1000
