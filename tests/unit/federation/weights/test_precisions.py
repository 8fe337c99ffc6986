"""Models in any precision: bfloat16, float16, float32, float64, with integers and booleans among them."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from cloud_functions.aggregation import combiner
from cloud_functions.aggregation.model_files import ModelWriter
from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Fit
from components.trainer.training import TorchTask, load_arrays, state_arrays
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.console.runs.initial_model_file import read_model
from fedgrass.federation import encodings, weights
from fedgrass.federation.encodings.array_types import bfloat16_to_float32, read_task_arrays, to_model_types
from fedgrass.federation.errors import AggregationFailed, SettingsError, UpdateRefused
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.rounds import State
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import BFLOAT16, Layout, read_layout
from fedgrass.federation.weights.slices import cut
from tests.fakes.memory_cloud import MemoryBucket
from tests.fakes.memory_device import announcement
from tests.fakes.small_average import SmallAverage
from tests.fakes.small_fleet import RUN, SmallFleet

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them

Arrays = dict[str, NDArray[Any]]
PRECISIONS = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64
}  # fmt: skip
INPUTS = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(INPUTS, (INPUTS[:, 0] > 0).long())


class Net(nn.Module):
    """Two layers with normalization between them, and buffers of other types."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("steps", torch.tensor(2**40))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.first(inputs))) * self.get_buffer("mask")
        outputs: torch.Tensor = self.last(hidden)
        return outputs


def network(own: str = "F32") -> nn.Module:
    return Net().to(PRECISIONS[own])


class Counting(TorchTask):
    """A task that counts its trainings."""

    def __init__(self, own: str = "F32") -> None:
        super().__init__(lambda: network(own), DATA, DATA)
        self.trained = 0

    def fit(self, *arguments: Any) -> Fit:
        self.trained += 1
        return super().fit(*arguments)


def file_in(precision: str) -> bytes:
    """Return a model as other tools publish it: only floats are converted."""
    torch.manual_seed(3)
    state = network().state_dict()
    return bytes(
        safetensors.torch.save(
            {
                name: value.to(PRECISIONS[precision]) if value.is_floating_point() else value
                for name, value in state.items()
            }
        )
    )


def layout_of(data: bytes) -> Layout:
    return read_layout(data, len(data))


def perform(folder: Path, task: TorchTask, file: bytes, **announced: Any) -> tuple[Result, bytes]:
    """Run one piece of work; return its result, and the update's file."""
    shop = WorkRunner(lambda *_: file)
    shop._tasks["own"] = ({}, task)
    update = folder / "updates" / "update.safetensors"
    work = WorkOrder(
        announcement=announcement(
            task="own", model_sha256=weights.sha256(file), model_bytes=len(file), **announced
        ),
        options={},
        update=str(update),
        memory=str(folder / "memory.safetensors"),
    )
    result = shop.perform(work, lambda _: None, lambda: False)
    return result, update.read_bytes() if update.exists() else b""


def types_of(data: bytes) -> dict[str, str]:
    return {name: array.dtype for name, array in layout_of(data).arrays.items()}


@pytest.mark.parametrize("own", PRECISIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_of_any_precision_trains_a_model_of_any_other_and_sends_it_in_the_models(
    tmp_path: Path, precision: str, own: str
) -> None:
    file, task = file_in(precision), Counting(own)
    result, update = perform(tmp_path, task, file, settings={"epochs": 2, "seed": 1})
    assert task.trained == 1
    assert types_of(update) == types_of(file)
    weights.check_data(update)
    found = weights.decode(update)
    assert found["steps"] == 2**40
    assert found["mask"].tolist() == [True, False, True, True]
    assert found["norm.num_batches_tracked"] == 4
    weights.check_finite(found)
    expected = Counting().evaluate(weights.decode(file_in("F32"))).metrics
    assert result.metrics["loss"] == pytest.approx(expected["loss"], abs=0.02)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_of_any_precision_is_evaluated_and_predicts(tmp_path: Path, precision: str) -> None:
    file = file_in(precision)
    measured, _ = perform(tmp_path, Counting(), file, work="evaluate")
    expected = Counting().evaluate(weights.decode(file_in("F32"))).metrics
    assert measured.metrics["loss"] == pytest.approx(expected["loss"], abs=0.02)
    given = read_task_arrays(file)
    outputs = Counting().predictor(given)([INPUTS[0].tolist()])
    assert np.asarray(outputs).shape == (1, 2)


@pytest.mark.parametrize("upload", ["float32", "float16", "bfloat16", "int8", "top_k"])
@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_encoding_takes_a_model_of_any_precision(
    tmp_path: Path, precision: str, upload: Any, *, difference: bool
) -> None:
    encoding = Encoding(kind=upload, difference=difference or upload == "top_k", fraction=0.5)
    file = file_in(precision)
    _, update = perform(tmp_path, Counting(), file, upload=encoding, settings={"epochs": 1})
    encodings.check_file(layout_of(update), layout_of(file), encoding)
    found = encodings.decode(update, layout_of(file), encoding)
    assert {name: array.dtype for name, array in found.items()} == {
        name: array.dtype for name, array in weights.decode(file).items()
    }


@pytest.mark.parametrize("precision", ["BF16", "F16"])
def test_scaffold_trains_a_model_of_half_precision(tmp_path: Path, precision: str) -> None:
    file = file_in(precision)
    task = TorchTask(network, DATA, DATA)
    _, update = perform(
        tmp_path, task, file, carried={"control": None}, settings={"epochs": 1, "learning_rate": 0.1}
    )
    found = types_of(update)
    assert found["first.weight"] == precision
    assert found["control:first.weight"] == "F32"
    assert np.abs(weights.decode(update)["control:first.weight"].astype(np.float64)).max() > 0


KINDS = {
    "steps": (torch.tensor(3.5), "is torch.float32 there and torch.int64 here, which is another kind"),
    "mask": (torch.ones(4), "is torch.float32 there and torch.bool here, which is another kind"),
    "last.bias": (torch.ones(2, dtype=torch.int64), "is torch.int64 there and torch.float32 here"),
    "norm.weight": (torch.full((4,), 1e300, dtype=torch.float64), "which cannot hold its values"),
    "first.bias": (torch.ones(3), "is (3,) there and (4,) here"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_model_that_cannot_be_converted_is_refused_before_anything_is_trained(
    tmp_path: Path, name: str
) -> None:
    value, said = KINDS[name]
    file = bytes(safetensors.torch.save({**network().state_dict(), name: value}))
    task = Counting()
    with pytest.raises(WorkFailed, match="the global model does not fit this task's") as failed:
        perform(tmp_path, task, file)
    assert said in str(failed.value)
    assert repr(name) in str(failed.value)
    assert not task.trained


def test_whole_numbers_of_another_width_are_converted_where_they_fit() -> None:
    model = network()
    state = state_arrays(model)
    load_arrays(model, {**state, "steps": np.array(7, np.int32)})
    assert state_arrays(model)["steps"] == 7
    narrow = nn.Module()
    narrow.register_buffer("steps", torch.tensor(0, dtype=torch.int32))
    with pytest.raises(WorkFailed, match="which cannot hold its values"):
        load_arrays(narrow, {"steps": np.array(2**40)})


def test_a_network_in_bfloat16_starts_a_run_in_bfloat16() -> None:
    first = Counting("BF16").initial_weights(0)
    assert first["first.weight"].dtype == BFLOAT16
    file = weights.encode(first)
    assert types_of(file)["first.weight"] == "BF16"
    again = network("BF16")
    load_arrays(again, first)
    assert all(np.array_equal(array, first[name]) for name, array in state_arrays(again).items())


def numpys(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def test_arrays_come_back_in_the_models_types_or_are_named() -> None:
    model = file_in("BF16")
    layout = layout_of(model)
    bits = weights.decode(model)["first.weight"]
    made = to_model_types(layout, {"first.weight": bfloat16_to_float32(bits), "steps": np.array(9, np.int32)})
    assert np.array_equal(made["first.weight"], bits)
    assert made["steps"].dtype == np.int64
    assert made["steps"].tolist() == 9
    assert to_model_types(layout, {"first.weight": bits})["first.weight"] is bits
    with pytest.raises(UpdateRefused, match=r"'first\.weight' has the magnitude 3\.4e\+38.*BF16 cannot hold"):
        to_model_types(layout, {"first.weight": numpys(np.full((4, 8), 3.4e38))})
    half = layout_of(file_in("F16"))
    with pytest.raises(UpdateRefused, match=r"'last\.bias' has the magnitude 70000"):
        to_model_types(half, {"last.bias": numpys([1, 70_000])})
    narrow = layout_of(weights.encode({"n": np.array(1, np.int8)}))
    with pytest.raises(UpdateRefused, match="'n' has whole numbers that the model's I8 cannot hold"):
        to_model_types(narrow, {"n": np.array(300)})
    kept = {"n": np.array(1.5), "other": np.array(2)}
    assert to_model_types(narrow, kept) == kept  # the check of the layout reports them by name


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("aggregation", ["weighted_mean", "median", "krum", "fedavgm", "scaffold"])
def test_bfloat16_is_averaged_in_float32_and_rounded_once(
    monkeypatch: pytest.MonkeyPatch, aggregation: str, *, exact: bool
) -> None:
    monkeypatch.setattr(combiner, "EXACT_BYTES", 16 * 1024**2 if exact else 0)
    rng = np.random.default_rng(5)
    values = [numpys(rng.standard_normal(300)) for _ in range(5)]
    bits = [encodings.quantization.to_bfloat16(value) for value in values]
    start: Arrays = {"w": np.zeros(300, np.uint16), "plain": np.zeros(3, np.float32)}
    run = SmallAverage(start, aggregation=aggregation, aggregation_options=OPTIONS.get(aggregation, {}))
    files = [run.unchecked({"w": one, "plain": np.ones(3, np.float32)}) for one in bits]
    made = run.round(files)["w"]
    assert made.dtype == np.uint16
    sent = np.stack([bfloat16_to_float32(one) for one in bits]).astype(np.float64)
    expected = {"median": np.median(sent, axis=0), "krum": None}.get(aggregation, sent.mean(axis=0))
    if expected is None:
        assert any(np.array_equal(made, one) for one in bits)
    else:
        off = np.abs(bfloat16_to_float32(made) - expected)
        assert (off <= np.abs(expected) / 2**8 * 1.001 + 1e-7).all()


OPTIONS: dict[str, dict[str, float]] = {"fedavgm": {"momentum": 0.0}}


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("value", [np.inf, np.nan, 1e39])
def test_no_model_is_written_with_values_that_are_not_finite(dtype: str, value: float) -> None:
    layout = layout_of(weights.encode({"w": np.zeros(4, np.float32)}))
    arrays = {"w": msgspec.structs.replace(layout.arrays["w"], dtype=dtype)}
    bucket = MemoryBucket()
    (part,) = cut(Layout(arrays, 0, 0), 4096)
    writer = ModelWriter(bucket, "model", Layout(arrays, 0, 0), "the strategy")
    with pytest.raises(AggregationFailed, match="not finite, in array 'w'"), writer:
        writer.write(part, np.array([0, 1, value, 2]))
    assert bucket.objects == {}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_starts_from_a_file_of_any_precision_and_keeps_it(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_in(precision))
    data = read_model(path)
    assert types_of(data) == types_of(path.read_bytes())
    weights.check_data(data)
    fleet = SmallFleet(devices=2, rounds=1)
    fleet.bucket.write("models/run-1/0.safetensors", data)
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names:
        _, update = perform(tmp_path / device, Counting(), data, settings={"epochs": 1, "seed": 1})
        fleet.say(
            device, Kind.COMPLETE, fleet.completion(opened, fleet.upload(device, opened, update), device)
        )
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good) == (State.CLOSED, 2)
    assert types_of(fleet.bucket.objects["models/run-1/1.safetensors"]) == types_of(data)
    # Another run continues from it.
    fleet.act("start", "run-2", settings={"task": "digits"}, continue_from={"run": RUN, "round": 1})
    assert types_of(fleet.bucket.objects["models/run-2/0.safetensors"]) == types_of(data)


@pytest.mark.parametrize("download", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("precision", ["BF16", "F16", "F64"])
def test_a_model_with_nothing_to_encode_is_downloaded_as_it_is(
    tmp_path: Path, precision: str, download: str
) -> None:
    fleet = SmallFleet(devices=2, rounds=2, download_encoding=download)
    data = file_in(precision)
    fleet.bucket.write("models/run-1/0.safetensors", data)
    fleet.start()
    for number in (1, 2):
        announced = fleet.announced("thing-0")[-1]
        assert announced.download == Encoding()
        assert announced.model_key == f"models/run-1/{number - 1}.safetensors"
        opened = fleet.newest()
        assert opened.number == number
        file = fleet.bucket.objects[announced.model_key]
        for device in fleet.names:
            _, update = perform(tmp_path / device, Counting(), file, settings={"epochs": 1, "seed": 1})
            fleet.upload(device, opened, update)
            fleet.say(device, Kind.COMPLETE, fleet.completion(opened, update, device))
    assert types_of(fleet.bucket.objects["models/run-1/2.safetensors"]) == types_of(data)
    encoded = [key for key in fleet.bucket.objects if key.startswith("models/") and download in key]
    assert encoded == []


def test_a_file_of_a_type_that_is_not_averaged_is_refused_before_a_run(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(2).to(torch.float8_e5m2)}))
    with pytest.raises(SettingsError, match=r"array 'w' has the type 'F8_E5M2'; fedgrass averages F64"):
        read_model(path)
    path.write_bytes(safetensors.torch.save({"w": torch.full((2,), torch.inf, dtype=torch.bfloat16)}))
    with pytest.raises(SettingsError, match="'w' has 2 values that are not finite"):
        read_model(path)
