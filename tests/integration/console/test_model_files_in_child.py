"""What needs PyTorch runs in a child process: exports, imports of PyTorch files, and legacy pickles."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedgrass.console import main
from fedgrass.console.models.child_work import given_task
from fedgrass.console.models.model_catalogue import ModelCatalogue
from fedgrass.console.models.model_export import export_model
from fedgrass.console.models.model_import import file_of_model
from fedgrass.console.models.model_names import ModelName
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import decode
from tests.fakes.model_registry import ModelOperator, trained
from tests.fakes.small_fleet import RUN

pytestmark = pytest.mark.slow  # each child imports PyTorch


class Bomb:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_a_model_is_exported_to_pytorch_and_imported_again_with_the_same_values(tmp_path: Path) -> None:
    operator = ModelOperator(trained(1))
    entry = ModelCatalogue(operator).entry(ModelName(RUN, 1))
    exported = export_model(operator, entry, "pytorch", tmp_path / "m.pt", None)
    assert (exported.model, exported.bytes) == (f"{RUN}/1", (tmp_path / "m.pt").stat().st_size)
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    model = decode(operator.fleet.bucket.objects[object_keys.model(RUN, 1)])
    again = decode(file_of_model(tmp_path / "m.pt"))
    assert set(state) == set(again) == set(model)
    for name, array in model.items():
        np.testing.assert_array_equal(state[name].numpy(), array)
        np.testing.assert_array_equal(again[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_a_model_that_does_not_fit_its_task_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    operator = ModelOperator(trained(1))
    entry = ModelCatalogue(operator).entry(ModelName(RUN, 1))
    with pytest.raises(SystemExit) as ended:
        export_model(operator, entry, "safetensors", tmp_path / "m", given_task("noise", tmp_path, ()))
    assert ended.value.code == 1
    assert "fedgrass: the model does not fit the task noise: it lacks 'body'" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_is_converted_without_a_stack_and_a_program_in_it_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing answers there
    (tmp_path / "good.pkl").write_bytes(pickle.dumps({"a": np.arange(3.0)}))
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"a": Bomb()}))
    main.run(["model", "convert-pickle", "good.pkl", "--out", "good.safetensors", "--yes"])
    assert decode((tmp_path / "good.safetensors").read_bytes())["a"].tolist() == [0, 1, 2]
    told = capfd.readouterr()
    assert "wrote good.safetensors (152 bytes): 1 array, read by the unpickler for arrays" in told.out
    assert "a pickle is a program" in told.err
    with pytest.raises(SystemExit) as ended:
        main.run(["model", "convert-pickle", "bad.pkl", "--out", "bad.safetensors", "--yes"])
    assert ended.value.code == 1
    assert "fedgrass: the pickle refers to posix.system" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pkl", "good.pkl", "good.safetensors"]


def test_without_a_terminal_the_risk_has_to_be_accepted_by_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.pkl").write_bytes(pickle.dumps({"a": np.arange(3.0)}))
    with pytest.raises(SettingsError, match="confirm the risk on a terminal, or with --yes"):
        main.run(["model", "convert-pickle", "good.pkl", "--out", "good.safetensors"])
