"""The same simulation makes the same files and models, whatever the number of worker processes."""

import json
from pathlib import Path

import pytest

from fedgrass.console.runs import history
from fedgrass.simulation.fleets.fleet_spec import FleetSpec
from fedgrass.simulation.simulation import run_spec
from fedgrass.simulation.simulation_files import summaries_of
from fedgrass.simulation.simulation_spec import SimulationSpec


@pytest.mark.slow
def test_history_and_models_are_the_same_with_one_and_with_three_workers_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_draw", lambda *_: b"PNG")
    spec = SimulationSpec(
        task="digits",
        devices=30,
        settings={"rounds": 2, "selection": "random", "count": 10, "over_selection": 1.3, "epochs": 1},
        fleet=FleetSpec(dropout=0.1, jitter=0.3),
        seed=11,
    )
    made: dict[str, list[bytes]] = {"history.json": [], "model.safetensors": []}
    models = []
    for place, workers in enumerate((1, 3, 3)):
        folder = tmp_path / str(place)
        found = run_spec(spec, workers=workers, report=lambda _line: None)
        history.write(folder, found.run, summaries_of(found), found.model, found.evaluations)
        for name, contents in made.items():
            contents.append((folder / name).read_bytes())
        models.append([record.round.model_sha256 for record in found.records])
    for contents in made.values():
        assert contents[0] == contents[1] == contents[2]
    assert models[0] == models[1] == models[2]
    assert len(set(models[0])) >= 2  # each round has made another model
    assert json.loads(made["history.json"][0])["state"] == "SUCCEEDED"
