"""PyTorch models in parts: private statistics keep their types, adapters train on a frozen base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from components.trainer.session.run_files import PrivateStore
from components.trainer.training import TorchTask, TrainingSettings
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import StatisticsPolicy, WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.local.task_sharing import initial_model
from tests.fakes.memory_device import announcement

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
LABELS = (INPUTS.sum(1) > 0).long()


class Net(TorchTask):
    """A small network in a precision, with a ready choice of roles; ``trainable`` freezes its first layer."""

    def __init__(self, precision: str = "float32", shared: str = "no_batch_norm") -> None:
        def make() -> nn.Module:
            first = nn.Linear(4, 8)
            model = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
            if shared == "trainable":
                nn.init.constant_(first.weight, 0.5)
                nn.init.constant_(first.bias, 0.1)
                first.requires_grad_(requires_grad=False)
            return model.to(getattr(torch, precision))

        data = (INPUTS, LABELS)
        super().__init__(make, data, data, shared=shared, defaults=TrainingSettings(epochs=1, batch_size=16))


def play(folder: Path, task: Net, options: dict[str, Any], rounds: int, **announced: Any) -> dict[str, Any]:
    """Return the last update, after rounds that each start from the update of the one before."""
    initial = initial_model(task, 0)
    store, model = PrivateStore(folder), initial.file()
    frozen = {"frozen_sha256": initial.frozen_sha256} if initial.frozen_sha256 else {}
    for number in range(1, rounds + 1):
        words = {"model_sha256": weights.sha256(model), "model_bytes": len(model), **frozen, **announced}
        asked = announcement(number, task="net", **words)
        work = WorkOrder(
            announcement=asked,
            options={"module": f"{__name__}:Net", **options},
            update=str(folder / "updates" / "u.safetensors"),
            memory=str(folder / "memory.safetensors"),
            statistics=StatisticsPolicy(),
            **store.order(asked),
        )
        runner = WorkRunner(lambda *_, data=model: data)  # a new worker for each round
        runner.perform(work, lambda _: None, lambda: False)
        store.adopt(Path(work.update), "net", "run-a")
        update = read_arrays(Path(work.update).read_bytes())
        model = weights.encode({name: update[name] for name in initial.shared})
    return update


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "float64"])
def test_private_batch_normalizations_continue_in_their_own_types(tmp_path: Path, precision: str) -> None:
    task = Net(precision)
    update = play(tmp_path, task, {"precision": precision}, rounds=3)
    assert update.keys() == {"0.weight", "0.bias", "3.weight", "3.bias"}
    kept = read_arrays((tmp_path / "private" / "net" / "run-a.safetensors").read_bytes())
    initial = task.initial_weights(0)
    assert kept.keys() == initial.keys() - update.keys()
    for name, array in kept.items():
        assert array.dtype == initial[name].dtype, name
    assert kept["1.num_batches_tracked"] == 3 * len(INPUTS) / 16
    assert (kept["1.running_mean"].tobytes() != initial["1.running_mean"].tobytes()) is True


@pytest.mark.parametrize("carried", [{}, {"control": None}], ids=["plain", "scaffold"])
def test_adapters_train_on_a_frozen_base_that_is_never_sent(tmp_path: Path, carried: dict[str, None]) -> None:
    task = Net(shared="trainable")
    update = play(tmp_path, task, {"shared": "trainable"}, rounds=2, carried=carried)
    names = {name for name in task.initial_weights(0) if not name.startswith("0.")}
    assert {name for name in update if ":" not in name} == names
    assert not any(name.endswith(("0.weight", "0.bias")) for name in update)
    moved = np.asarray(update["3.weight"]) - np.asarray(task.initial_weights(0)["3.weight"])
    assert np.abs(moved).max() > 0
