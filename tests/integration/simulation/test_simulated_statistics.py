"""A run of statistics in a simulation: the answers of virtual devices are merged."""

from typing import Any

import pytest

from fedgrass.federation.runs import RunState
from fedgrass.federation.statistics.statistics_result import decode_result
from fedgrass.simulation.simulation import run_spec
from fedgrass.simulation.simulation_spec import SimulationSpec


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"features": ["*"]}, id="answers in files, after a round that agrees edges"),
        pytest.param({"features": ["labels"]}, id="answers in the completions"),
    ],
)
def test_the_statistics_of_virtual_devices_are_those_of_all_their_data(query: dict[str, Any]) -> None:
    spec = SimulationSpec(task="digits", devices=6, settings={"statistics": query})
    found = run_spec(spec, workers=1, report=lambda _line: None)
    assert found.run.state is RunState.SUCCEEDED
    result = decode_result(found.statistics, "statistics.json")
    assert result.devices == 6
    examples = sum(part.examples for part in found.records[-1].participants)
    assert result.features["labels"].count == examples > 1000
    assert found.model == b""
