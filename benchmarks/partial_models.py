"""What partial models save and gain: adapters on a frozen base (LoRA), private batch normalizations (FedBN).

    python -m benchmarks.partial_models [--quick]

The tasks are the examples of docs/examples. Each device is a worker of the trainer with a work folder of its
own: it decodes the model's file, adds its private and frozen arrays, trains, and writes an update file. The
updates are averaged by examples, as ``weighted_mean`` does.

- LoRA: a base is trained first (docs/examples/lora/pretrain_base.py). Then 4 devices train all arrays, or
  only adapters and the last layer, each with the learning rate that suits it. ``full_bytes`` and
  ``lora_bytes`` are the larger of the files of a model and of an update, per device and round.
  ``lora_random_base_accuracy`` shows what adapters reach without the base.
- FedBN: 6 devices whose sensors differ, with the batch normalizations private, or averaged like all arrays,
  and (without --quick) each device alone; accuracies are means over the devices' held-out data, for three
  seeds.
- Without --quick, both LoRA runs also take one round on 2 Greengrass cores with the embedded cloud. ``cloud``
  has the sizes of all objects that the run has in S3, which the devices downloaded and uploaded.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import numpy as np

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from components.trainer.session.run_files import PrivateStore
from components.trainer.tasks.registry import load_task
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import WorkOrder
from fedgrass.federation import object_keys, weights
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages import Announcement
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.local.task_sharing import initial_model
from fedgrass.local.testbed import open_testbed, thing_names

_EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
_LORA_DEVICES, _LORA_ROUNDS = 4, 10
_FEDBN_DEVICES, _FEDBN_ROUNDS = 6, 20
QUESTION = "partial_models"
_SEEDS = (1, 2, 3)
_HELD_OUT, _FEW = 1000, 20  # windows of a device for the last evaluation, and for those within rounds
_TASK, _RUN, _BUCKET = "bench", "bench", "bucket"
_RUN_SECONDS = 300.0
Options = dict[str, bool | int | float | str]
_VIBRATION: Options = {"module": "vibration_task:Vibration", "path": str(_EXAMPLES / "lora")}
_PUMPS: Options = {"module": "fedbn_sensors:PumpState", "path": str(_EXAMPLES)}


class Device:
    """A worker of the trainer in this process, with its work folder."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._objects: dict[str, bytes] = {}
        self._runner = WorkRunner(lambda _bucket, key, _size: self._objects[key])
        self._private = PrivateStore(folder)

    def perform(
        self, work: str, number: int, model: bytes, **announced: Any
    ) -> tuple[bytes, Mapping[str, float]]:
        """Train or evaluate a model; return the update's file, empty if it evaluates, and the metrics."""
        key = object_keys.model(_RUN, number - 1)
        self._objects = {key: model}
        asked = Announcement(
            run=_RUN,
            round=number,
            attempt=1,
            task=_TASK,
            work="train" if work == "train" else "evaluate",
            announced_at=0,
            bucket=_BUCKET,
            model_key=key,
            model_sha256=weights.sha256(model),
            model_bytes=len(model),
            deadline_seconds=3600,
            **announced,
        )
        update = self._folder / "updates" / f"{number}.safetensors"
        order = WorkOrder(
            announcement=asked,
            options=self._options,
            update=str(update),
            memory=str(self._folder / "memory.safetensors"),
            **self._private.order(asked),
        )
        result = self._runner.perform(order, lambda _: None, lambda: False)
        if work != "train":
            return b"", result.metrics
        self._private.adopt(update, _TASK, _RUN)
        return update.read_bytes(), result.metrics


class Trained(NamedTuple):
    """The result of one run.

    Attributes:
        accuracy: of the last model with each device's private arrays; mean over the devices' held-out data.
        bytes: larger one of the files of a model and of an update.
    """

    accuracy: float
    bytes: int


def train(folder: Path, options: Options, devices: int, rounds: int, seed: int) -> Trained:
    """Train a task on devices that differ by the option ``share``."""
    initial = initial_model(load_task(_TASK, {**options, "share": 0}), seed)
    frozen = {"frozen_sha256": initial.frozen_sha256} if initial.frozen_sha256 else {}
    fleet = [
        Device(folder / str(share), {**options, "share": share, "held_out": _FEW}) for share in range(devices)
    ]
    model, uploaded = weights.encode(initial.shared), 0
    for number in range(1, rounds + 1):
        settings = {"seed": seed * 1000 + number}
        updates = [device.perform("train", number, model, settings=settings, **frozen)[0] for device in fleet]
        uploaded = max(uploaded, *map(len, updates))
        model = average(updates)  # every device has the same number of examples
    metrics = [
        Device(folder / str(share), {**options, "share": share, "held_out": _HELD_OUT}).perform(
            "evaluate", rounds + 1, model, **frozen
        )[1]
        for share in range(devices)
    ]
    accuracy = statistics.mean(found["accuracy"] for found in metrics)
    return Trained(accuracy, max(len(model), uploaded))


def average(updates: Sequence[bytes]) -> bytes:
    """Return the file of the mean of update files."""
    decoded = [weights.decode(update) for update in updates]
    sums = {name: sum(np.asarray(each[name], np.float64) for each in decoded) for name in decoded[0]}
    return weights.encode(
        {name: np.asarray(sums[name] / len(updates), array.dtype) for name, array in decoded[0].items()}
    )


def alone(options: Options, devices: int, rounds: int, seed: int) -> float:
    """Return the mean accuracy of devices that train by themselves."""
    found = []
    for share in range(devices):
        task = load_task(_TASK, {**options, "share": share, "held_out": _HELD_OUT})
        model = task.initial_weights(seed)
        for number in range(1, rounds + 1):
            settings = {"seed": seed * 1000 + number}
            model = task.fit(model, settings, lambda _: None, lambda: False).weights
        found.append(task.evaluate(model).metrics["accuracy"])
    return statistics.mean(found)


def lora(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Return the figures of training all arrays, and of training adapters."""
    base = folder / "base.safetensors"
    script, steps = _EXAMPLES / "lora" / "pretrain_base.py", 350 if quick else 500
    command = [sys.executable, str(script), "--out", str(base), "--steps", str(steps)]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)
    runs: dict[str, Options] = {
        "full": {**_VIBRATION, "rank": 0, "base": str(base)},
        "lora": {**_VIBRATION, "rank": 4, "base": str(base)},
    }
    if not quick:
        runs["lora_random_base"] = {**_VIBRATION, "rank": 4, "base": ""}
    figures: dict[str, Any] = {}
    for name, options in runs.items():
        seeds = _SEEDS[:1] if quick else _SEEDS
        found = [train(folder / f"{name}-{n}", options, _LORA_DEVICES, _LORA_ROUNDS, n) for n in seeds]
        figures[f"{name}_bytes"] = found[0].bytes
        figures[f"{name}_accuracy"] = round(statistics.mean(one.accuracy for one in found), 4)
        figures[f"{name}_accuracies"] = [round(one.accuracy, 4) for one in found]
        print(f"{name:20} {found[0].bytes:9,} bytes, accuracy {figures[f'{name}_accuracies']}", flush=True)
    if not quick:
        figures["cloud"] = {
            name: in_the_cloud(folder / f"cloud-{name}", runs[name]) for name in ("full", "lora")
        }
        print(f"with the embedded cloud: {figures['cloud']}", flush=True)
    return figures


def fedbn(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Return the accuracies with private and with averaged batch normalizations, and of devices alone."""
    figures: dict[str, Any] = {}
    for name, average_all in (("fedbn", False), ("full_averaging", True)):
        options: Options = {**_PUMPS, "average_all": average_all}
        figures[f"{name}_accuracy"] = [
            round(
                train(
                    folder / f"{name}-{n}", {**options, "seed": n}, _FEDBN_DEVICES, _FEDBN_ROUNDS, n
                ).accuracy,
                4,
            )
            for n in _SEEDS
        ]
        print(f"{name:20} accuracy {figures[f'{name}_accuracy']}", flush=True)
    if quick:
        return figures
    figures["alone_accuracy"] = [
        round(alone({**_PUMPS, "seed": n}, _FEDBN_DEVICES, _FEDBN_ROUNDS, n), 4) for n in _SEEDS
    ]
    print(f"{'each device alone':20} accuracy {figures['alone_accuracy']}", flush=True)
    return figures


def in_the_cloud(folder: Path, options: Options) -> dict[str, int]:
    """Train one round on two cores; return the sizes of the run's objects by kind, of one device."""
    things = thing_names(2)
    devices = {thing: {"tasks": {_TASK: {**options, "share": n}}} for n, thing in enumerate(things)}
    with open_testbed(folder, devices) as testbed:
        initial = initial_model(load_task(_TASK, {**options, "share": 0}), 1)
        settings = RunSettings(task=_TASK, rounds=1, deadline_seconds=int(_RUN_SECONDS), evaluate_last=False)
        testbed.operator.start(_RUN, initial.settings(settings), initial.file())
        deadline = time.monotonic() + _RUN_SECONDS
        while testbed.operator.run(_RUN).state is RunState.RUNNING and time.monotonic() < deadline:
            time.sleep(0.5)
        run = testbed.operator.run(_RUN)
        if run.state is not RunState.SUCCEEDED:
            message = f"the run has the state {run.state}: {run.reason}"
            raise FedgrassError(message)
        bucket, s3 = testbed.stack["BucketName"], testbed.cloud.client("s3")
        sizes = {found["Key"]: found["Size"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]}
        (update,) = (size for key, size in sizes.items() if key.startswith(f"updates/{things[0]}/"))
        others = {key: size for key, size in sizes.items() if key.startswith(f"models/{_RUN}/")}
        return {"down": others[object_keys.model(_RUN, 0)], "up": update, "of_the_run": sum(others.values())}


def main() -> None:
    """Run the command line."""
    options = benchmark_parser(__doc__, "one seed of LoRA, and no cloud").parse_args()
    quick = options.quick
    with tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder:
        figures = {**lora(Path(folder), quick=quick), **fedbn(Path(folder), quick=quick)}
    finish(QUESTION, options, figures, seeds=_SEEDS[:1] if quick else _SEEDS)


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
