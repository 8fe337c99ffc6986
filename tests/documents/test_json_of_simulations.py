"""The JSON of ``fedgrass simulate`` equals its golden file, and the page has its fields."""

import json
from pathlib import Path

import pytest

from fedgrass.console.results import show_result
from fedgrass.console.runs.run_costs import RunCost
from fedgrass.federation.runs import RunState
from fedgrass.simulation.simulation_files import Simulated
from tests.documents.golden_files import fields, golden_text

SIMULATED = Simulated(
    run="digits-simulated-7",
    state=RunState.SUCCEEDED,
    reason="all 2 rounds closed",
    rounds_closed=3,
    devices=100,
    assignments=300,
    metrics={"accuracy": 0.91},
    virtual_seconds=12.5,
    real_seconds=8.25,
    cost=RunCost(
        dollars=0.006,
        egress=0.001,
        s3=0.001,
        messages=0.002,
        dynamodb=0.001,
        functions=0.001,
        by_round=(0.003, 0.002, 0.001),
    ),
    folder="runs/digits-simulated-7",
    files=["accuracy.png", "history.json", "model.safetensors", "report.html", "simulation.json"],
    notes=["clients are trained one by one"],
)


def test_the_json_of_a_simulation_is_that_of_its_golden_file(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(SIMULATED, "json", print)
    assert capsys.readouterr().out == golden_text("simulate")


def test_the_page_has_a_section_with_the_fields_of_a_simulation(project: Path) -> None:
    page = (project / "docs" / "json.md").read_text(encoding="utf-8")
    section = page.partition("## `fedgrass simulate`\n")[2].partition("\n## ")[0]
    found = fields(json.loads(golden_text("simulate"))) - set(SIMULATED.metrics)
    assert [field for field in sorted(found) if f"`{field}`" not in section] == []
