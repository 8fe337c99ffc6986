"""``run download``: the files that a demo leaves, of a run of a deployed stack."""

import json
from pathlib import Path

import pytest

from fedgrass.console.runs.run_download import write_files
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import decode
from tests.fakes.memory_operator import operator_of
from tests.fakes.small_fleet import RUN, SmallFleet


def trained(rounds: int = 2) -> SmallFleet:
    fleet = SmallFleet(devices=2, rounds=rounds, evaluate_last=True)
    fleet.start()
    for number in range(1, rounds + 1):
        for device in fleet.names:
            fleet.reply(device, value=float(number))
    return fleet


def test_the_latest_model_the_history_and_the_picture_are_written(tmp_path: Path) -> None:
    fleet = trained()
    found = write_files(operator_of(fleet), fleet.run(), tmp_path / RUN)
    assert sorted(path.name for path in (tmp_path / RUN).iterdir()) == found.files
    assert found.files == ["accuracy.png", "history.json", "model.safetensors"]
    assert found.model == 2
    model = (tmp_path / RUN / "model.safetensors").read_bytes()
    assert len(model) == found.model_bytes
    assert decode(model)["bias"][0] == 2.0
    history = json.loads((tmp_path / RUN / "history.json").read_text())
    assert [line["round"] for line in history["rounds"]] == [1, 2, 3]
    assert (tmp_path / RUN / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_an_earlier_model_can_be_chosen_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    fleet = trained()
    found = write_files(operator_of(fleet), fleet.run(), tmp_path / "a", 1)
    assert found.model == 1
    assert decode((tmp_path / "a" / "model.safetensors").read_bytes())["bias"][0] == 1.0
    with pytest.raises(SettingsError, match=r"has no model 9: there is no object models/run-1/9\."):
        write_files(operator_of(fleet), fleet.run(), tmp_path / "b", 9)
    assert not (tmp_path / "b").exists()


def test_before_the_first_round_has_closed_the_model_is_the_initial_one(tmp_path: Path) -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    assert write_files(operator_of(fleet), fleet.run(), tmp_path / RUN).model == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    fleet = trained(1)
    with pytest.raises(SettingsError, match="choose another folder with --out"):
        write_files(operator_of(fleet), fleet.run(), tmp_path / "file" / RUN)
