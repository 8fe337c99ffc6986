"""A model becomes a state_dict that PyTorch reads with weights only, and such files become models."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import BFLOAT16, decode, encode
from fedgrass.local.model_files import fitting_models, pytorch_files
from fedgrass.local.model_files.pytorch_files import read_state_dict, write_state_dict
from fedgrass.local.task_loading import load

DIGITS = {"name": "digits", "options": {"share": 0, "shares": 1}}


def ignore(_step: str) -> None:
    """Record no step."""


def files(folder: Path, model: bytes, **more: Any) -> dict[str, Any]:
    (folder / "model").write_bytes(model)
    names = {name: str(folder / name) for name in ("model", "target", "result")}
    return {**names, "task": None, **more}


def test_all_types_survive_the_way_to_pytorch_and_back(tmp_path: Path) -> None:
    arrays = {
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([0x3F80, 0xC000], np.uint16).view(BFLOAT16),
        "count": np.array(7),
        "flag": np.array([True]),
    }
    path = tmp_path / "m.pt"
    write_state_dict(arrays, path)
    state = torch.load(path, weights_only=True)
    assert state["half"].dtype == torch.bfloat16
    assert state["half"].tolist() == [1, -2]
    found = read_state_dict(path)
    assert list(found) == list(arrays)
    assert all(found[name].dtype == array.dtype for name, array in arrays.items())
    np.testing.assert_array_equal(found["half"].view(np.uint16), arrays["half"].view(np.uint16))


def test_an_exported_model_is_loaded_by_the_tasks_own_module(tmp_path: Path) -> None:
    task: Any = load("digits", tmp_path, DIGITS["options"])  # type: ignore[arg-type]
    model = encode(task.initial_weights(3))
    assert pytorch_files.export_in_child(files(tmp_path, model, task=DIGITS), ignore) == 0
    module = task._make_model()
    module.load_state_dict(torch.load(tmp_path / "target", weights_only=True))
    np.testing.assert_array_equal(
        module.state_dict()["0.weight"].numpy(), task.initial_weights(3)["0.weight"]
    )


def test_a_file_with_code_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(SettingsError, match=r"it refers to torch\.nn\.modules\.linear\.Linear, which"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": torch.ones(2).to_sparse()}, "the array 'a' is torch.sparse_coo"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "the array 'a' is"),
        ({"a": "text"}, "the entry 'a' is str, and a model has only arrays"),
        (torch.ones(1), "holds Tensor and no state_dict"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, value: object, words: str) -> None:
    path = tmp_path / "m.pt"
    torch.save(value, path)
    with pytest.raises(SettingsError) as refused:
        read_state_dict(path)
    assert words in str(refused.value)


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "m.pt")
    with (
        zipfile.ZipFile(tmp_path / "m.pt") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in stored.namelist():
            packed.writestr(part, stored.read(part))
    with pytest.raises(SettingsError, match="unpacks to 40"):
        read_state_dict(tmp_path / "bomb.pt")


def test_an_array_that_is_larger_than_its_values_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "m.pt")
    with pytest.raises(SettingsError, match="'w' repeats values of a smaller one"):
        read_state_dict(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [b"\x1b[2J no pickle", b"\x80\x04\x8c\x01a.", b"\x80\x02\x82\x01."])
def test_a_refusal_does_not_repeat_the_advice_to_load_the_code_in_a_file(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(SettingsError, match="not a file of weights that PyTorch can read: ") as caught:
        read_state_dict(tmp_path / "m.pt")
    assert "weights_only" not in str(caught.value)


def test_a_checkpoint_is_imported_as_safetensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"b": torch.ones(2), "a": torch.zeros(1)}, "epoch": 3}, tmp_path / "m.pt")
    options = {name: str(tmp_path / name) for name in ("target", "result")}
    assert pytorch_files.read_in_child({**options, "source": str(tmp_path / "m.pt")}, ignore) == 0
    assert list(decode((tmp_path / "target").read_bytes())) == ["b", "a"]


def test_a_model_that_does_not_fit_its_task_is_refused_by_the_names_of_its_arrays(tmp_path: Path) -> None:
    task = load("digits", tmp_path, DIGITS["options"])  # type: ignore[arg-type]
    own = dict(task.initial_weights(0))
    cases = {
        "it lacks '0.weight'": {name: array for name, array in own.items() if name != "0.weight"},
        "'more' is not an array of the task": {**own, "more": np.zeros(1)},
        "'0.bias' has the shape (17,) in the model and (16,) in the task": {
            **own,
            "0.bias": np.zeros(17, np.float32),
        },
        "'0.bias' has the type I64 in the model and F32 in the task": {**own, "0.bias": np.zeros(16, int)},
    }
    for words, arrays in cases.items():
        with pytest.raises(SettingsError) as refused:
            fitting_models.check_in_child(files(tmp_path, encode(arrays), task=DIGITS), ignore)
        assert words in str(refused.value)
    fits = encode({name: array.astype(np.float16) for name, array in own.items()})
    assert fitting_models.check_in_child(files(tmp_path, fits, task=DIGITS), ignore) == 0
    assert json.loads((tmp_path / "result").read_text())["checked"] == "digits: 6 arrays"


def test_a_task_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    options = files(tmp_path, encode({"a": np.zeros(1)}), task={"name": "none:Such", "path": str(tmp_path)})
    with pytest.raises(SettingsError, match="none"):
        fitting_models.check_in_child(options, ignore)
    assert fitting_models.check_in_child({**options, "optional": True}, ignore) == 0
    result = json.loads((tmp_path / "result").read_text())
    assert result["checked"] == ""
    assert "none" in result["note"]
