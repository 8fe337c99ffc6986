"""What the device side costs: the trainer at rest, and what it adds to a training.

    python -m benchmarks.device [--quick]

- Two real cores with the built component, one of which uploads by Stream Manager, one to S3 by itself; the
  embedded cloud and one round of the digits. Then the workers go, and each trainer's own process is measured
  at rest, with a heartbeat a minute: its resident memory, and the first one's processor time over 60 seconds
  (10 with --quick). The bytes of an update come from the round.
- Meanwhile, a training of the digits' network by ``TorchTask`` against the same steps written out in plain
  torch (the tensors indexed by batches, ``torch.optim.SGD``), one thread, taken in turns; the overhead is the
  median of the ratios, minus one. Processor time is counted, of each process for itself.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read as torch is imported

import torch
from torch.utils.data import TensorDataset

from benchmarks.processes import running
from components.trainer.tasks.digits import Digits, make_model
from components.trainer.training import TorchTask
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.local.testbed import Testbed, open_testbed, thing_names

EXAMPLES, EPOCHS, BATCH = 4096, 2, 32
LEARNING_RATE, MOMENTUM = 0.05, 0.9
AIMS = {
    "idle_rss_mb": 60.0,
    "idle_rss_s3_mb": 60.0,
    "idle_cpu_percent": 0.2,
    "training_overhead": 0.03,
}
FIGURES = ("idle_rss_mb", "idle_cpu_percent", "training_overhead", "update_bytes", "idle_rss_s3_mb")
UPLOADERS = ("stream-manager", "s3")
_WARM_SECONDS = 2.0
_HEARTBEAT_SECONDS = 60.0
_SECONDS = 120.0  # for the round, and for a worker to go


def measure(seconds: float, pairs: int) -> dict[str, float]:
    """Return all figures: of trainers at rest for ``seconds`` at least, and of ``pairs`` of trainings."""
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
        open_testbed(Path(folder), devices) as site,
    ):
        update_bytes = _one_round(site)
        trainers = _resting_trainers()
        trainer, by_itself = (trainers[thing] for thing in things)
        started, before = time.monotonic(), _processor_seconds(trainer)
        overhead = measure_overhead(pairs)
        time.sleep(max(0.0, started + seconds - time.monotonic()))
        rested, after = time.monotonic() - started, _processor_seconds(trainer)
        used = sum(spent - before.get(thread, 0.0) for thread, spent in after.items())
        return {
            "idle_rss_mb": round(trainer.memory_info().rss / 1e6, 1),
            "idle_rss_s3_mb": round(by_itself.memory_info().rss / 1e6, 1),
            "idle_cpu_percent": round(100 * used / rested, 3),
            "training_overhead": round(overhead, 4),
            "update_bytes": update_bytes,
        }


def _one_round(site: Testbed) -> int:
    """Train one round, and return the bytes of a device's update."""
    settings = RunSettings(task="digits", rounds=1, deadline_seconds=int(_SECONDS))
    site.operator.start("bench", settings, Digits().initial_weights(seed=0))
    _wait(lambda: site.operator.run("bench").state is not RunState.RUNNING, "the run did not end")
    run = site.operator.run("bench")
    if run.state is not RunState.SUCCEEDED:
        raise FedgrassError(run.reason)
    (record,) = site.operator.rounds(run)
    if len(record.participants) < len(UPLOADERS) or not all(one.bytes for one in record.participants):
        message = f"not every device brought an update: {record.participants}"
        raise FedgrassError(message)
    return record.participants[0].bytes


def _resting_trainers() -> dict[str, psutil.Process]:
    """Return the trainers' processes, by thing, once their workers have gone."""
    _wait(lambda: not running("components.trainer.worker"), "the trainers' workers did not go")
    return {process.environ()["AWS_IOT_THING_NAME"]: process for process in running("components.trainer")}


def _processor_seconds(process: psutil.Process) -> dict[str, float]:
    """Return the processor time of each thread, in seconds, by the scheduler: clock ticks are too coarse."""
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
    """Return what ``TorchTask`` adds to the same training in plain torch, as a fraction of it."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(EXAMPLES, 1, 8, 8, generator=generator)
    targets = torch.randint(0, 10, (EXAMPLES,), generator=generator)
    task = TorchTask(make_model, TensorDataset(inputs, targets), TensorDataset(inputs, targets))
    weights = task.initial_weights(seed=0)
    settings: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
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
    # One beside the other, each first as often as the other: a machine that others use changes all the time.
    ratios = [
        _seconds(ours) / _seconds(plain) if number % 2 else 1 / (_seconds(plain) / _seconds(ours))
        for number in range(pairs)
    ]
    return statistics.median(ratios) - 1


def train_plainly(inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Do the same training, written out: the loss of each batch is added up, as a user would to report it."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    model.train()
    for _ in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(targets))
        for first in range(0, len(order), BATCH):
            places = order[first : first + BATCH]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[places]), targets[places])
            loss.backward()  # type: ignore[no-untyped-call] # torch gives it no types
            optimizer.step()
            total += loss.item() * len(places)


def _seconds(call: Callable[[], None]) -> float:
    """Return the processor time of a call: of this process alone, whatever else the machine does."""
    before = time.process_time()
    call()
    return time.process_time() - before


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 seconds of rest and 6 pairs of trainings")
    quick = parser.parse_args().quick
    figures = measure(10.0, 6) if quick else measure(60.0, 20)
    print(
        f"a trainer at rest: {figures['idle_rss_mb']:.1f} MB, {figures['idle_cpu_percent']:.3f} % of a core"
    )
    print(f"one that uploads to S3 by itself: {figures['idle_rss_s3_mb']:.1f} MB")
    print(f"a training: {figures['training_overhead']:+.1%} over the same loop in plain torch")
    print(f"an update of the digits' network: {figures['update_bytes']:,} bytes")
    for name, aim in AIMS.items():
        if figures[name] > aim:
            print(f"{name} is above its aim of {aim:g}")
    print(json.dumps({name: figures[name] for name in FIGURES}))


if __name__ == "__main__":
    try:
        main()
    except FedgrassError as error:
        sys.exit(f"device: {error}")
