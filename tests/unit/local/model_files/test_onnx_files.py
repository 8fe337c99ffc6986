"""An ONNX file computes what the module computes, for batches of any size; skipped without the extra onnx."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import encode
from fedgrass.local.model_files import onnx_files
from fedgrass.local.model_files.onnx_files import export_in_child
from fedgrass.local.task_loading import load
from tests.unit.local.model_files.test_pytorch_files import DIGITS, files, ignore


@pytest.mark.slow
def test_an_exported_model_predicts_as_its_module_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    task: Any = load("digits", tmp_path, DIGITS["options"])  # type: ignore[arg-type]
    weights = task.initial_weights(3)
    about = {"fedgrass.model": "run-1/3"}
    assert export_in_child(files(tmp_path, encode(weights), task=DIGITS, about=about), ignore) == 0
    session = runtime.InferenceSession(str(tmp_path / "target"), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == about
    module, _ = task.module(weights, 1)
    images = np.random.default_rng(1).random((5, 1, 8, 8)).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    with torch.no_grad():
        np.testing.assert_allclose(found, module(torch.tensor(images)).numpy(), rtol=1e-4, atol=1e-5)


def test_a_task_without_a_module_is_refused(tmp_path: Path) -> None:
    task = load("noise", tmp_path, {})
    options = files(tmp_path, encode(task.initial_weights(0)), task={"name": "noise"}, about={})
    with pytest.raises(SettingsError, match="noise is not a TorchTask, so it has no PyTorch module"):
        export_in_child(options, ignore)


def test_without_the_extra_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        message = "No module named 'onnxscript'"
        raise ModuleNotFoundError(message)

    monkeypatch.setattr(torch.onnx, "export", missing)
    with pytest.raises(SettingsError, match=r"pip install .*'\.\[onnx\]'"):
        onnx_files.write_onnx(torch.nn.Linear(1, 1), torch.ones(2, 1), tmp_path / "m.onnx", {})
