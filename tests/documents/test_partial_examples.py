"""The examples of partial models in the docs: LoRA and FedBN by the real worker and the real averaging."""

import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.runtime.component_errors import WorkDeclined
from components.trainer.session.run_files import PrivateStore
from components.trainer.tasks.registry import load_task
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import object_keys, weights
from fedgrass.federation.weights.array_sharing import Role
from fedgrass.local.task_check import CheckOptions, check_task
from fedgrass.local.task_sharing import InitialModel, initial_model
from tests.fakes.memory_device import announcement
from tests.fakes.small_average import RUN, SmallAverage

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LORA, FEDBN = EXAMPLES / "lora", EXAMPLES
STEPS = 60  # of the base's training: enough to see that it helps
Options = dict[str, bool | int | float | str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base model, made by the script as a user runs it."""
    file = tmp_path_factory.mktemp("base") / "base.safetensors"
    before = list(sys.path), sys.argv
    try:
        sys.path.insert(0, str(LORA))
        sys.argv = ["pretrain_base.py", "--out", str(file), "--steps", str(STEPS)]
        runpy.run_path(str(LORA / "pretrain_base.py"), run_name="__main__")
    finally:
        sys.path[:], sys.argv = before
        for name in ("vibration_data", "vibration_task"):
            sys.modules.pop(name, None)
    return file


def vibration(base: Path | None, **options: Any) -> Options:
    file = str(base) if base else ""
    return {"module": "vibration_task:Vibration", "path": str(LORA), "base": file, "held_out": 100, **options}


def pumps(**options: Any) -> Options:
    return {"module": "fedbn_sensors:PumpState", "path": str(FEDBN), **options}


class Fleet:
    """Devices that differ by ``share``: the trainer's worker on each, and the averager between them."""

    def __init__(self, folder: Path, options: Options, devices: int, seed: int = 1) -> None:
        self.initial: InitialModel = initial_model(load_task("own", {**options, "share": 0}), seed)
        self.average = SmallAverage(self.initial.shared)
        self.folders = [folder / f"device-{share}" for share in range(devices)]
        self._options = [{**options, "share": share} for share in range(devices)]
        self._workers = [WorkRunner(self._fetch) for _ in range(devices)]
        self.downloaded: list[int] = []
        self.uploaded: list[int] = []

    def _fetch(self, _bucket: str, key: str, size: int) -> bytes:
        data = self.average.bucket.objects[key]
        assert len(data) == size
        self.downloaded.append(size)
        return data

    def _perform(self, device: int, work: str, options: Options | None = None) -> tuple[Result, bytes]:
        number = self.average.number + 1
        data = self.average.bucket.objects[object_keys.model(RUN, number - 1)]
        announced: dict[str, Any] = {
            "settings": {"seed": number},
            "frozen_sha256": self.initial.frozen_sha256,
        }
        asked = announcement(
            number,
            run=RUN,
            task="own",
            work=work,
            model_sha256=weights.sha256(data),
            model_bytes=len(data),
            **{name: value for name, value in announced.items() if value},
        )
        store = PrivateStore(self.folders[device])
        update = self.folders[device] / "updates" / f"{number}.safetensors"
        order = WorkOrder(
            announcement=asked,
            options=options or self._options[device],
            update=str(update),
            memory=str(self.folders[device] / "memory.safetensors"),
            **store.order(asked),
        )
        result = self._workers[device].perform(order, lambda _: None, lambda: False)
        if work != "train":
            return result, b""
        store.adopt(update, "own", RUN)
        self.uploaded.append(result.bytes)
        return result, update.read_bytes()

    def rounds(self, count: int) -> None:
        for _ in range(count):
            replies = [self._perform(device, "train") for device in range(len(self.folders))]
            updates = [data for _, data in replies]
            self.average.round(updates, examples=[result.examples for result, _ in replies])

    def measure(self) -> dict[str, float]:
        """Return the metrics of the global model, means over the devices."""
        found = [self._perform(device, "evaluate")[0].metrics for device in range(len(self.folders))]
        return {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}

    def changed_base(self, options: Options) -> None:
        self._perform(0, "evaluate", options)


def bytes_of(arrays: Mapping[str, Any]) -> int:
    return sum(array.nbytes for array in arrays.values())


def header_bytes(file: bytes) -> int:
    """Return the size of a safetensors file's header: 8 bytes of length, and that many of JSON."""
    length = int.from_bytes(file[:8], "little")
    assert json.loads(file[8 : 8 + length])
    return 8 + length


@pytest.mark.slow
def test_only_the_adapters_travel_and_they_adapt_the_base(base: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, vibration(base, windows=60), devices=2)
    before = fleet.measure()
    fleet.downloaded.clear()
    fleet.rounds(3)
    after = fleet.measure()
    assert after["loss"] < before["loss"] * 0.75
    assert after["accuracy"] > before["accuracy"] + 0.2

    shared, frozen = fleet.initial.shared, fleet.initial.roles.names(Role.FROZEN)
    assert {name.rpartition(".")[0] for name in shared} == {
        "head",
        *(
            f"blocks.{n}.{layer}.{part}"
            for n in range(3)
            for layer in ("query", "value")
            for part in ("up", "down")
        ),
    }
    assert len(frozen) == 53  # all arrays of the base
    files = [data for key, data in fleet.average.bucket.objects.items() if key.endswith(".safetensors")]
    models = [data for data in files if weights.decode(data).keys() == shared.keys()]
    assert len(models) == len(files)
    assert all(len(data) == header_bytes(data) + bytes_of(shared) for data in files)
    full = len(weights.encode(load_task("own", vibration(base, rank=0)).initial_weights(1)))
    assert max(*fleet.downloaded, *fleet.uploaded) <= 0.02 * full


@pytest.mark.slow
def test_the_base_makes_the_adapters_learn_faster(base: Path, tmp_path: Path) -> None:
    losses = []
    for number, chosen in enumerate((base, None)):
        fleet = Fleet(tmp_path / str(number), vibration(chosen, windows=60), devices=2)
        fleet.rounds(2)
        losses.append(fleet.measure()["loss"])
    assert losses[0] < losses[1]


def test_a_device_with_another_base_declines(base: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, vibration(base, windows=10), devices=1)
    with pytest.raises(WorkDeclined, match="another version of the frozen base"):
        fleet.changed_base(vibration(None, windows=10, share=0))


@pytest.mark.slow
def test_private_normalizations_beat_averaged_ones(tmp_path: Path) -> None:
    accuracies = {}
    for average_all in (False, True):
        fleet = Fleet(tmp_path / str(average_all), pumps(average_all=average_all), devices=4)
        fleet.rounds(15)
        accuracies[average_all] = fleet.measure()["accuracy"]
    assert accuracies[False] > accuracies[True] + 0.05


def test_the_averages_have_no_batch_normalization(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, pumps(windows=20), devices=2)
    fleet.rounds(1)
    assert set(fleet.average.model) == {"0.weight", "0.bias", "3.weight", "3.bias", "8.weight", "8.bias"}
    private = [folder / "private" / "own" / f"{RUN}.safetensors" for folder in fleet.folders]
    first, second = (weights.decode(file.read_bytes())["1.running_mean"] for file in private)
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_the_check_passes(base: Path) -> None:
    for options in (vibration(base), pumps()):
        said: list[str] = []
        name, path = str(options.pop("module")), Path(str(options.pop("path")))
        code = check_task(CheckOptions(name=name, path=path, options=options), said.append)
        assert code == 0, said
        assert not [line for line in said if line.startswith("note")], said
