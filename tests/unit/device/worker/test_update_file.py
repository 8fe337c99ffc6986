"""Encodings: the worker decodes the downloaded model, trains it, and writes the update as announced."""

from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from components.runtime.component_errors import WorkFailed
from components.trainer.session.error_feedback import pending_path
from components.trainer.session.journal import result_path
from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import encodings, weights
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.weights import Arrays
from tests.fakes.memory_device import announcement

MODEL: dict[str, Any] = {
    "w": np.random.default_rng(3).standard_normal(5000, dtype=np.float32),
    "batches": np.array(4, np.int64),
}
CHANGE = np.random.default_rng(4).standard_normal(5000, dtype=np.float32)
FILE = weights.encode(MODEL)
LAYOUT = weights.read_layout(FILE, len(FILE))
TOP_K = Encoding(kind="top_k", difference=True, fraction=0.01)


class Shift:
    """A task that adds the same change to any weights."""

    started_from: ClassVar[Arrays] = {}

    def initial_weights(self, seed: int) -> Arrays:
        return {name: np.full_like(array, seed) for name, array in MODEL.items()}

    def evaluate(self, model: Arrays) -> Evaluation:
        return Evaluation(len(model), {"loss": 1.0})

    def fit(self, model: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        assert not stop()
        report(1.0)
        type(self).started_from = model
        change = CHANGE * np.float32(settings.get("factor", 1))
        return Fit({"w": np.asarray(model["w"], np.float32) + change, "batches": np.array(9)}, 10)

    def examples(self) -> int:
        return 10


def perform(folder: Path, download: Encoding, upload: Encoding, **settings: float) -> Result:
    file = encodings.encode_model(FILE, download)
    work = WorkOrder(
        announcement=announcement(
            task="shift",
            model_bytes=len(file),
            model_sha256=weights.sha256(file),
            download=download,
            upload=upload,
            settings=settings,
        ),
        options={"module": f"{__name__}:Shift"},
        update=str(folder / "updates" / "run-a-1-1.safetensors"),
        memory=str(folder / "run-a.safetensors"),
    )
    # As it travels to the worker.
    work = msgspec.json.decode(msgspec.json.encode(work), type=WorkOrder)
    return WorkRunner(lambda *_: file).perform(work, lambda _: None, lambda: False)


def update_in(folder: Path) -> bytes:
    return (folder / "updates" / "run-a-1-1.safetensors").read_bytes()


def sent(folder: Path, upload: Encoding) -> np.ndarray[Any, Any]:
    return np.asarray(encodings.decode(update_in(folder), LAYOUT, upload)["w"])


def adopt(folder: Path) -> None:
    pending_path(folder / "updates" / "run-a-1-1.safetensors").replace(folder / "run-a.safetensors")


@pytest.mark.parametrize("download", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("upload", ["float32", "float16", "bfloat16", "int8", "top_k"])
@pytest.mark.parametrize("difference", [False, True])
def test_every_encoding_is_downloaded_trained_from_and_uploaded(
    tmp_path: Path, download: Any, upload: Any, *, difference: bool
) -> None:
    difference = difference or upload == "top_k"
    asked = Encoding(kind=upload, difference=difference, fraction=0.5)
    result = perform(tmp_path, Encoding(kind=download), asked)
    data = update_in(tmp_path)
    assert (result.bytes, result.checksum) == (len(data), weights.checksum(data))
    weights.check_data(data)
    start = np.asarray(Shift.started_from["w"], np.float32)
    assert np.abs(start - MODEL["w"]).max() < 0.05
    found = encodings.decode(data, LAYOUT, asked)
    assert found["batches"] == 9
    if upload == "top_k":
        return
    wanted = CHANGE if difference else start + CHANGE
    assert np.abs(np.asarray(found["w"]) - wanted).max() < 0.05


def test_without_an_announced_encoding_the_update_is_written_as_before(tmp_path: Path) -> None:
    perform(tmp_path, Encoding(), Encoding())
    assert update_in(tmp_path) == weights.encode({"w": MODEL["w"] + CHANGE, "batches": np.array(9)})
    update = tmp_path / "updates" / "run-a-1-1.safetensors"
    assert set((tmp_path / "updates").iterdir()) == {update, result_path(update)}


def test_what_top_k_left_over_comes_with_the_next_update_once_it_is_adopted(tmp_path: Path) -> None:
    perform(tmp_path, Encoding(), TOP_K)
    first = sent(tmp_path, TOP_K)
    perform(tmp_path, Encoding(), TOP_K)  # the first update was not uploaded: all is as before
    assert sent(tmp_path, TOP_K).tolist() == first.tolist()
    adopt(tmp_path)
    perform(tmp_path, Encoding(), TOP_K, factor=0)
    second = sent(tmp_path, TOP_K)
    left_over = weights.decode(pending_path(tmp_path / "updates" / "run-a-1-1.safetensors").read_bytes())[
        "residual:w"
    ]
    change = (MODEL["w"] + CHANGE) - MODEL["w"]
    assert second.any()
    assert np.allclose(first + second + np.asarray(left_over, np.float32), change, atol=1e-6)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda _: b"no weights",
        lambda _: weights.encode({"residual:w": np.zeros(3, np.float32)}),
        lambda _: weights.encode({"residual:w": np.full(5000, np.nan, np.float32)}),
    ],
)
def test_a_residual_that_cannot_be_used_is_reset(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    perform(tmp_path, Encoding(), TOP_K)
    first = sent(tmp_path, TOP_K)
    adopt(tmp_path)
    file = tmp_path / "run-a.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    perform(tmp_path, Encoding(), TOP_K)
    assert sent(tmp_path, TOP_K).tolist() == first.tolist()
    assert "is reset" in caplog.text


def test_training_that_float16_cannot_hold_fails_with_words_and_leaves_no_update(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="float16 holds at most 65520: choose another encoding"):
        perform(tmp_path, Encoding(), Encoding(kind="float16"), factor=1e6)
    assert not (tmp_path / "updates" / "run-a-1-1.safetensors").exists()
