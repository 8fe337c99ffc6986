"""The worker's updates declare which arrays have gradients; statistics have no residual and no control."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from components.trainer.session.error_feedback import pending_path
from components.trainer.tasks.task import Evaluation, Fit, GradientSteps, Report, Settings, Stop
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import WorkOrder
from fedgrass.federation import encodings, weights
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.weights import Arrays, read_layout_and_metadata
from fedgrass.federation.weights.array_roles import TRAINED as DECLARATION
from fedgrass.federation.weights.array_roles import declared_names, update_layout
from tests.fakes.memory_device import announcement

MODEL: dict[str, Any] = {
    "w": np.linspace(-1, 1, 200, dtype=np.float32),
    "gauge": np.linspace(1, 2, 200, dtype=np.float32),
    "bn.running_var": np.linspace(1, 2, 200, dtype=np.float32),
}
FILE = weights.encode(MODEL)
LAYOUT = weights.read_layout(FILE, len(FILE))
TRAINED = frozenset({"w"})
TOP_K = Encoding(kind="top_k", difference=True, fraction=0.1)


class Halves:
    """Halves every array; declares the names in ``trained``."""

    trained: ClassVar[frozenset[str] | None] = TRAINED

    def initial_weights(self, seed: int) -> Arrays:
        return {name: np.full_like(array, seed) for name, array in MODEL.items()}

    def evaluate(self, model: Arrays) -> Evaluation:
        return Evaluation(len(model), {"loss": 1.0})

    def fit(self, model: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:  # noqa: ARG002 - the signature of tasks
        halved = {name: np.divide(array, 2, dtype=np.float32) for name, array in model.items()}
        return Fit(halved, 10, trained=self.trained)

    def fit_corrected(
        self, model: Arrays, settings: Settings, report: Report, stop: Stop, correction: Arrays
    ) -> Fit:
        assert not any(array.any() for array in correction.values())
        fit = self.fit(model, settings, report, stop)
        return Fit(fit.weights, 10, steps=GradientSteps(2, 0.5), trained=self.trained)

    def examples(self) -> int:
        return 10


def update(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trained: frozenset[str] | None, **said: Any
) -> Path:
    monkeypatch.setattr(Halves, "trained", trained)
    work = WorkOrder(
        announcement=announcement(
            task="halves", model_bytes=len(FILE), model_sha256=weights.sha256(FILE), **said
        ),
        options={"module": f"{__name__}:Halves"},
        update=str(folder / "updates" / "run-a-1-1.safetensors"),
        memory=str(folder / "run-a.safetensors"),
    )
    WorkRunner(lambda *_: FILE).perform(work, lambda _: None, lambda: False)
    return Path(work.update)


@pytest.mark.parametrize("trained", [TRAINED, None])
def test_an_update_declares_what_its_task_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: frozenset[str] | None
) -> None:
    file = update(tmp_path, monkeypatch, trained).read_bytes()
    _, metadata = read_layout_and_metadata(file, len(file))
    assert declared_names(metadata.get(DECLARATION, "")) == trained


@pytest.mark.parametrize(("trained", "kept"), [(TRAINED, {"w"}), (None, {"w", "gauge"})])
def test_error_feedback_keeps_nothing_of_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: frozenset[str] | None, kept: set[str]
) -> None:
    path = update(tmp_path, monkeypatch, trained, upload=TOP_K)
    remembered = weights.decode(pending_path(path).read_bytes())
    assert set(remembered) == {f"residual:{name}" for name in kept}
    sent = encodings.decode(path.read_bytes(), LAYOUT, TOP_K)["bn.running_var"]
    assert ((MODEL["bn.running_var"] + np.asarray(sent)) >= MODEL["bn.running_var"] / 2).all()


def test_feedback_that_a_former_version_kept_of_statistics_is_forgotten_and_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = {f"residual:{name}": np.full(200, 9, np.float32) for name in MODEL}
    (tmp_path / "run-a.safetensors").write_bytes(weights.encode(former))
    path = update(tmp_path, monkeypatch, TRAINED, upload=TOP_K)
    sent = encodings.decode(path.read_bytes(), LAYOUT, TOP_K)
    assert np.abs(np.asarray(sent["w"])).max() > 8
    assert np.abs(np.asarray(sent["bn.running_var"])).max() <= 1


@pytest.mark.parametrize(("trained", "moved"), [(TRAINED, {"w"}), (None, {"w", "gauge"})])
def test_statistics_have_no_control_variate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: frozenset[str] | None, moved: set[str]
) -> None:
    path = update(tmp_path, monkeypatch, trained, carried={"control": None})
    file = path.read_bytes()
    found = encodings.decode(file, update_layout(LAYOUT, ["control"]), Encoding())
    assert {name for name in MODEL if np.asarray(found[f"control:{name}"]).any()} == moved
