"""The cost of the device side: an idle trainer, and the overhead of ``TorchTask`` over plain torch.

    python -m benchmarks.device [--quick]

- Two Greengrass cores with the built component, one of which uploads through Stream Manager and one directly
  to S3, run one round of the task ``digits`` with the embedded cloud. Once the workers have ended, the idle
  trainer processes, with one heartbeat a minute, are measured: the resident memory of both, and the CPU time
  of the first over 60 seconds (10 with --quick). The size of an update comes from the round.
- At the same time, ``TorchTask`` and plain torch (batches indexed from tensors, ``torch.optim.SGD``) train
  the network of ``digits`` with the same steps on one thread, in turns; the overhead is the median of the
  ratios, minus one. Only the CPU time of each process counts.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from torch.utils.data import TensorDataset

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.measuring.processes import running
from components.trainer.tasks.digits import Digits, make_model
from components.trainer.training import TorchTask
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.local.testbed import Testbed, open_testbed, thing_names

QUESTION = "device"
_EXAMPLES, _EPOCHS, _BATCH = 4096, 2, 32
LEARNING_RATE, MOMENTUM = 0.05, 0.9
TARGETS = {
    "idle_rss_mb": 60.0,
    "idle_rss_s3_mb": 60.0,
    "idle_cpu_percent": 0.2,
    "training_overhead": 0.03,
}
FIGURES = ("idle_rss_mb", "idle_cpu_percent", "training_overhead", "update_bytes", "idle_rss_s3_mb")
UPLOADERS = ("stream-manager", "s3")
_WARM_SECONDS = 2.0
_HEARTBEAT_SECONDS = 60.0
_SECONDS = 120.0  # for the round, and for a worker to end


def measure(seconds: float, pairs: int) -> dict[str, float]:
    """Return all figures.

    Args:
        seconds: the shortest time for which the idle trainers are measured.
        pairs: how many pairs of trainings are compared.
    """
    configuration = {
        "tasks": {"digits": {}},
        "warm_seconds": _WARM_SECONDS,
        "heartbeat_seconds": _HEARTBEAT_SECONDS,
    }
    things = thing_names(len(UPLOADERS))
    devices = {
        thing: {**configuration, "uploader": uploader}
        for thing, uploader in zip(things, UPLOADERS, strict=True)
    }
    with (
        tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder,
        open_testbed(Path(folder), devices) as testbed,
    ):
        update_bytes = _one_round(testbed)
        trainers = _idle_trainers()
        trainer, s3_trainer = (trainers[thing] for thing in things)
        started, before = time.monotonic(), _cpu_seconds(trainer)
        overhead = measure_overhead(pairs)
        time.sleep(max(0.0, started + seconds - time.monotonic()))
        elapsed, after = time.monotonic() - started, _cpu_seconds(trainer)
        used = sum(spent - before.get(thread, 0.0) for thread, spent in after.items())
        return {
            "idle_rss_mb": round(trainer.memory_info().rss / 1e6, 1),
            "idle_rss_s3_mb": round(s3_trainer.memory_info().rss / 1e6, 1),
            "idle_cpu_percent": round(100 * used / elapsed, 3),
            "training_overhead": round(overhead, 4),
            "update_bytes": update_bytes,
        }


def _one_round(testbed: Testbed) -> int:
    """Train one round; return the size of a device's update in bytes."""
    settings = RunSettings(task="digits", rounds=1, deadline_seconds=int(_SECONDS))
    testbed.operator.start("bench", settings, Digits().initial_weights(seed=0))
    _wait(lambda: testbed.operator.run("bench").state is not RunState.RUNNING, "the run did not end")
    run = testbed.operator.run("bench")
    if run.state is not RunState.SUCCEEDED:
        raise FedgrassError(run.reason)
    # The last attempt: on a busy machine an earlier one may have been abandoned.
    record = max(testbed.operator.rounds(run), key=lambda record: record.round.attempt)
    if len(record.participants) < len(UPLOADERS) or not all(one.bytes for one in record.participants):
        message = f"not every device uploaded an update: {record.participants}"
        raise FedgrassError(message)
    return record.participants[0].bytes


def _idle_trainers() -> dict[str, psutil.Process]:
    """Return the trainer processes by thing name, once their workers have ended."""
    _wait(lambda: not running("components.trainer.worker"), "the trainers' workers did not end")
    return {process.environ()["AWS_IOT_THING_NAME"]: process for process in running("components.trainer")}


def _cpu_seconds(process: psutil.Process) -> dict[str, float]:
    """Return the CPU seconds of each thread from the scheduler, since clock ticks are too coarse."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return {
        thread.name: int((thread / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
        for thread in threads
    }


def _wait(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            message = f"{failure} within {_SECONDS:.0f} s"
            raise FedgrassError(message)
        time.sleep(0.1)


def measure_overhead(pairs: int) -> float:
    """Return the overhead of ``TorchTask`` as a fraction of the time of the same training in plain torch."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(_EXAMPLES, 1, 8, 8, generator=generator)
    targets = torch.randint(0, 10, (_EXAMPLES,), generator=generator)
    task = TorchTask(make_model, TensorDataset(inputs, targets), TensorDataset(inputs, targets))
    weights = task.initial_weights(seed=0)
    settings: dict[str, Any] = {
        "epochs": _EPOCHS,
        "batch_size": _BATCH,
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
        "precision": "float32",
    }

    def ours() -> None:
        task.fit(weights, settings, lambda _part: None, lambda: False)

    def plain() -> None:
        train_plainly(inputs, targets)

    ours()
    plain()
    # In pairs, each of the two first equally often, since the speed of a shared machine varies.
    ratios = [
        _seconds(ours) / _seconds(plain) if number % 2 else 1 / (_seconds(plain) / _seconds(ours))
        for number in range(pairs)
    ]
    return statistics.median(ratios) - 1


def train_plainly(inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Train with plain torch, summing the loss of the batches as a user would to report it."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    model.train()
    for _ in range(_EPOCHS):
        total = 0.0
        order = torch.randperm(len(targets))
        for first in range(0, len(order), _BATCH):
            places = order[first : first + _BATCH]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[places]), targets[places])
            loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
            optimizer.step()
            total += loss.item() * len(places)


def _seconds(call: Callable[[], None]) -> float:
    """Return the CPU seconds of a call in this process."""
    before = time.process_time()
    call()
    return time.process_time() - before


def main() -> None:
    """Run the command line."""
    options = benchmark_parser(__doc__, "10 idle seconds and 6 pairs of trainings").parse_args()
    figures = measure(10.0, 6) if options.quick else measure(60.0, 20)
    print(f"an idle trainer: {figures['idle_rss_mb']:.1f} MB, {figures['idle_cpu_percent']:.3f} % of a core")
    print(f"an idle trainer that uploads directly to S3: {figures['idle_rss_s3_mb']:.1f} MB")
    print(f"training: {figures['training_overhead']:+.1%} over the same loop in plain torch")
    print(f"an update of the digits' network: {figures['update_bytes']:,} bytes")
    for name, target in TARGETS.items():
        if figures[name] > target:
            print(f"{name} exceeds its target of {target:g}")
    finish(QUESTION, options, {name: figures[name] for name in FIGURES}, seeds=[0, 1])


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
