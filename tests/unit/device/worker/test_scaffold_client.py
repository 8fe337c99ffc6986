"""SCAFFOLD on a device: work, training and client state together match the algorithm of the paper."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.runtime.atomic_file import unfinished
from components.runtime.component_errors import WorkFailed
from components.trainer.session.error_feedback import pending_path
from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Fit, GradientSteps, Report, Settings, Stop
from components.trainer.training import Optimizer, TorchTask, TrainingSettings
from components.trainer.worker.scaffold_client import ScaffoldTraining, correctable, server_control
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import encodings, object_keys, weights
from fedgrass.federation.messages import CarriedFile
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_roles import update_layout
from tests.fakes.memory_device import announcement
from tests.fakes.small_average import RUN, SmallAverage

pytestmark = pytest.mark.slow  # seconds of trainings, crashes or processes: make test runs them

DEVICES, EXAMPLES, STEPS, RATE, ROUNDS = 3, 12, 8, 0.05, 4
INPUTS = np.random.default_rng(5).standard_normal((DEVICES, EXAMPLES, 3)).astype(np.float32)
# Each device's data follow another line: their optima differ.
LINES = np.array([[3.0, -1.0, 0.5], [-2.0, 4.0, 1.0], [0.0, 2.0, -3.0]], np.float32)
TARGETS = np.einsum("dni,di->dn", INPUTS, LINES)[:, :, None]
PLAIN = {"epochs": STEPS, "learning_rate": RATE, "batch_size": EXAMPLES, "seed": 1}
SCAFFOLD: dict[str, Any] = {"aggregation": "scaffold"}


class Line(TorchTask):
    """A linear regression on the data of device number ``number``; each epoch is one step."""

    def __init__(self, number: int = 0) -> None:
        data = TensorDataset(torch.from_numpy(INPUTS[number]), torch.from_numpy(TARGETS[number]))
        super().__init__(lambda: nn.Linear(3, 1, bias=False), data, data, loss=nn.functional.mse_loss)


def start() -> dict[str, NDArray[Any]]:
    return {"weight": np.zeros((1, 3), np.float32)}


def gradient(device: int, w: NDArray[np.float64]) -> NDArray[np.float64]:
    inputs = INPUTS[device].astype(np.float64)
    slope: NDArray[np.float64] = 2 / EXAMPLES * inputs.T @ (inputs @ w - TARGETS[device, :, 0])
    return slope


def reference(rounds: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return x, c and all c_i by a direct implementation of the paper's algorithm 1 with option II."""
    x, c, own = np.zeros(3), np.zeros(3), np.zeros((DEVICES, 3))
    for _ in range(rounds):
        models, after = np.zeros((DEVICES, 3)), np.zeros((DEVICES, 3))
        for i in range(DEVICES):
            y = x.copy()
            for _ in range(STEPS):
                y -= RATE * (gradient(i, y) - own[i] + c)
            models[i], after[i] = y, own[i] - c + (x - y) / (STEPS * RATE)
        x, c, own = models.mean(axis=0), c + (after - own).mean(axis=0), after
    return x, c, own


class Fleet:
    """Devices that perform works in their folders as the trainer's worker does, and an averager."""

    def __init__(self, folder: Path, upload: Encoding | None = None) -> None:
        self.folder = folder
        self.upload = upload or Encoding()
        self.average = SmallAverage(start(), encoding=self.upload, **SCAFFOLD)

    def work(self, device: int, **changes: object) -> WorkOrder:
        base = self.average.number
        model = self.average.bucket.objects[object_keys.model(RUN, base)]
        key = object_keys.state(RUN, base, "control")
        kept = self.average.bucket.objects.get(key)
        control = CarriedFile(key=key, sha256=weights.sha256(kept), bytes=len(kept)) if kept else None
        words = {
            "task": "line",
            "model_key": object_keys.model(RUN, base),
            "model_bytes": len(model),
            "model_sha256": weights.sha256(model),
            "upload": self.upload,
            "settings": PLAIN,
            "carried": {"control": control},
            **changes,
        }
        work = WorkOrder(
            announcement=announcement(base + 1, run=RUN, **words),  # type: ignore[arg-type]
            options={"module": f"{__name__}:Line", "number": device},
            update=str(self.folder / str(device) / "updates" / "update.safetensors"),
            memory=str(self.memory(device)),
        )
        return msgspec.json.decode(msgspec.json.encode(work), type=WorkOrder)  # as it travels to the worker

    def memory(self, device: int) -> Path:
        return self.folder / str(device) / "memory.safetensors"

    def perform(self, work: WorkOrder) -> Result:
        """Perform an assignment in a new worker: only the files of the previous one are left."""

        def fetch(_bucket: str, key: str, size: int) -> bytes:
            data = self.average.bucket.objects[key]
            assert len(data) == size
            return data

        return WorkRunner(fetch).perform(work, lambda _: None, lambda: False)

    def round(self) -> None:
        """Let all devices train and upload, and compute the next model."""
        updates = []
        for device in range(DEVICES):
            work = self.work(device)
            self.perform(work)
            updates.append(Path(work.update).read_bytes())
            pending_path(Path(work.update)).replace(self.memory(device))
        self.average.round(updates)


@pytest.mark.parametrize("difference", [False, True])
def test_models_and_controls_are_those_of_the_papers_algorithm(tmp_path: Path, *, difference: bool) -> None:
    fleet = Fleet(tmp_path, Encoding(difference=difference))
    for number in range(1, ROUNDS + 1):
        fleet.round()
        x, c, own = reference(number)
        np.testing.assert_allclose(fleet.average.model["weight"][0], x, atol=1e-5)
        np.testing.assert_allclose(fleet.average.state("control")["control:weight"][0], c, atol=1e-4)
        for device in range(DEVICES):
            kept = weights.decode(fleet.memory(device).read_bytes())
            assert kept.keys() == {"control:weight"}
            np.testing.assert_allclose(kept["control:weight"][0], own[device], atol=1e-4)


def test_top_k_keeps_the_control_and_what_was_left_over_in_one_file(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, Encoding(kind="top_k", difference=True, fraction=0.5))
    for _ in range(2):
        fleet.round()
    kept = weights.decode(fleet.memory(0).read_bytes())
    assert kept.keys() == {"residual:weight", "residual:control:weight", "control:weight"}


def test_an_update_that_was_never_uploaded_leaves_the_control_as_it_was(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.round()
    first, again = fleet.work(0), fleet.work(0)
    fleet.perform(first)
    update = Path(first.update).read_bytes()
    fleet.perform(again)
    assert Path(again.update).read_bytes() == update


@pytest.mark.parametrize(
    "damaged",
    [b"no weights", weights.encode({"control:weight": np.ones(7, np.float32)})],
    ids=["no weights", "of another model"],
)
def test_a_control_that_cannot_be_used_is_reset(
    tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(tmp_path)
    fleet.round()
    fleet.memory(0).unlink()
    fleet.perform(fleet.work(0))
    expected = Path(fleet.work(0).update).read_bytes()
    fleet.memory(0).write_bytes(damaged)
    fleet.perform(fleet.work(0))
    assert Path(fleet.work(0).update).read_bytes() == expected
    assert "is reset" in caplog.text


def test_a_control_of_the_server_with_another_checksum_is_not_used(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.round()
    work = fleet.work(0)
    key = object_keys.state(RUN, 1, "control")
    data = fleet.average.bucket.objects[key]
    fleet.average.bucket.objects[key] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(WorkFailed, match=r"models/run-1/1\.control\.safetensors has the SHA-256"):
        fleet.perform(work)


def test_a_control_of_another_model_is_refused_by_the_array() -> None:
    file = weights.encode(start())
    other = weights.encode({"control:weight": np.zeros((1, 4), np.float32)})
    with pytest.raises(WorkFailed, match="server's control variate cannot be used: array 'control:weight'"):
        server_control(weights.read_layout(file, len(file)), other)


def test_a_task_without_a_corrected_training_fails_the_work_with_the_reason() -> None:
    with pytest.raises(
        WorkFailed, match="task 'noise' cannot train for the aggregation scaffold, since it has"
    ):
        correctable("noise", Noise(), {"control": None})


def test_updates_that_must_carry_something_else_fail_the_work() -> None:
    with pytest.raises(WorkFailed, match="updates must carry hessian, which this trainer does not support"):
        correctable("line", Line(), {"hessian": None})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"momentum": 0.9}, r"training\.momentum is 0\.9; .* leave it out, or set it to 0"),
        ({"patience_epochs": 2}, r"training\.patience_epochs is 2"),
    ],
)
def test_a_run_that_asks_for_other_steps_fails_the_work_by_the_setting(
    tmp_path: Path, settings: Any, words: str
) -> None:
    fleet = Fleet(tmp_path)
    with pytest.raises(WorkFailed, match=words):
        fleet.perform(fleet.work(0, settings={**PLAIN, **settings}))


def never() -> bool:
    return False


def fitted(task: TorchTask, correction: Arrays, **settings: float) -> Fit:
    return task.fit_corrected(
        task.initial_weights(0), {**PLAIN, **settings}, lambda _: None, never, correction
    )


def test_a_tasks_own_optimizer_and_its_own_fit_are_refused() -> None:
    class Adaptive(Line):
        def make_optimizer(self, parameters: list[nn.Parameter], settings: TrainingSettings) -> Optimizer:
            return torch.optim.Adam(parameters, lr=settings.learning_rate)

    class Own(Line):
        def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
            return super().fit(weights, settings, report, stop)

    with pytest.raises(WorkFailed, match="the task trains with Adam"):
        fitted(Adaptive(), {})
    with pytest.raises(WorkFailed, match="it needs a fit_corrected too"):
        fitted(Own(), {})


class Idle(nn.Module):
    """A linear layer, an unused layer, a frozen one, and one with running means."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.idle = nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 1).requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.line(self.norm(inputs))
        return outputs


def idle() -> TorchTask:
    data = TensorDataset(torch.from_numpy(INPUTS[0]), torch.from_numpy(TARGETS[0]))
    return TorchTask(Idle, data, data, loss=nn.functional.mse_loss)


def test_a_parameter_without_a_gradient_moves_by_the_correction_alone_and_buffers_do_not() -> None:
    task = idle()
    begun = task.initial_weights(0)
    fit = fitted(task, {name: np.full(array.shape, 0.5, np.float32) for name, array in begun.items()})
    moved = np.asarray(begun["idle.weight"], float) - np.asarray(fit.weights["idle.weight"], float)
    np.testing.assert_allclose(moved, STEPS * RATE * 0.5, rtol=1e-5)
    np.testing.assert_array_equal(fit.weights["frozen.weight"], begun["frozen.weight"])
    assert fit.steps == GradientSteps(
        STEPS, RATE, frozenset(name for name, _ in Idle().named_parameters() if not name.startswith("frozen"))
    )


def test_what_no_gradient_moves_has_a_control_of_zero(tmp_path: Path) -> None:
    task = idle()
    begun = task.initial_weights(0)
    file = weights.encode(begun)
    layout = weights.read_layout(file, len(file))
    work = WorkOrder(announcement=announcement(), options={}, update=str(tmp_path / "update.safetensors"))
    corrected = ScaffoldTraining(work, task, layout, {})
    fit = corrected.fit(begun, PLAIN, lambda _: None, never)
    corrected.write(fit, begun)
    sent = encodings.decode(
        unfinished(tmp_path / "update.safetensors").read_bytes(),
        update_layout(layout, ["control"]),
        Encoding(),
    )
    assert np.any(fit.weights["norm.running_mean"])
    changed = {name for name, array in sent.items() if name.startswith("control:") and np.any(array)}
    assert changed == {f"control:{name}" for name in ("line.weight", "line.bias", "norm.weight", "norm.bias")}


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        (Fit(start(), 1), ", not None"),
        (Fit(start(), 1, steps=GradientSteps(0, 0.1)), "must return its steps, 1 or more"),
        (Fit(start(), 1, steps=GradientSteps(1, 0.0)), "a learning rate above 0"),
        (Fit({}, 1, steps=GradientSteps(1, 0.1)), "returned no array 'weight'"),
        (Fit({"weight": np.zeros(2, np.float32)}, 1, steps=GradientSteps(1, 0.1)), r"returned shape \(2,\)"),
        (Fit({"weight": np.full((1, 3), np.nan, np.float32)}, 1, steps=GradientSteps(1, 0.1)), "not finite"),
        (Fit({"weight": np.ones((1, 3), np.float32)}, 1, steps=GradientSteps(1, 1e-39)), "'control:weight'"),
    ],
)
def test_a_fit_that_cannot_be_used_fails_the_work_with_words(tmp_path: Path, fit: Fit, words: str) -> None:
    file = weights.encode(start())
    work = WorkOrder(announcement=announcement(), options={}, update=str(tmp_path / "update.safetensors"))
    corrected = ScaffoldTraining(work, Line(), weights.read_layout(file, len(file)), {})
    with pytest.raises(WorkFailed, match=words):
        corrected.write(fit, start())
    assert not (tmp_path / "update.safetensors").exists()
