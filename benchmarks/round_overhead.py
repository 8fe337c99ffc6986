"""The overhead of a round in addition to training: seconds, CPU time, and the memory of an idle trainer.

    python -m benchmarks.round_overhead [--quick]

A numpy task with a model of 1 MB and almost no training time runs on 1, 4 and 16 Greengrass cores on one
machine, through all parts of a round: initiator, MQTT over TLS, IPC, S3, Stream Manager, rules, SQS,
averager. The overhead of a round is the time between the close of the previous round and its own, minus the
training time of the slowest device.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring.processes import running
from components.trainer.tasks.noise import Noise
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.local.testbed import TRAINER, Testbed, open_testbed, thing_names

_MEGABYTES = 1  # of the model
# Of a round of Flower 1.42 on two cores, by number of devices; see ../shared/facts/cloud.md.
_FLOWER_SECONDS = {1: 6.46, 4: 10.75, 16: 38.58}
_RUN_SECONDS = 300.0
_WARM_SECONDS = 3.0  # after which an idle trainer ends its worker


def measure(devices: int, rounds: int) -> dict[str, float]:
    """Return the figures of ``rounds`` rounds over ``devices`` devices."""
    configuration = {"tasks": {"noise": {"megabytes": _MEGABYTES}}, "warm_seconds": _WARM_SECONDS}
    with (
        tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder,
        open_testbed(Path(folder), dict.fromkeys(thing_names(devices), configuration)) as testbed,
    ):
        settings = RunSettings(task="noise", rounds=rounds, deadline_seconds=120)
        cpu_before = _cpu_seconds()
        run = _run(testbed, settings)
        cpu = _cpu_seconds() - cpu_before
        overheads = _overheads(list(testbed.operator.rounds(run)))
        return {
            "overhead_s": round(statistics.median(overheads), 3),
            "overhead_slowest_s": round(max(overheads), 3),
            "cpu_s_per_device_round": round(cpu / devices / rounds, 3),
            "trainer_rss_mb": round(_idle_trainer_megabytes(), 1),
        }


def _run(testbed: Testbed, settings: RunSettings) -> Run:
    testbed.operator.start("bench", settings, Noise(megabytes=_MEGABYTES).initial_weights(seed=0))
    deadline = time.monotonic() + _RUN_SECONDS
    while time.monotonic() < deadline:
        run = testbed.operator.run("bench")
        if run.state is RunState.SUCCEEDED:
            return run
        if run.state is RunState.FAILED:
            raise FedgrassError(run.reason)
        time.sleep(0.2)
    message = f"the run did not end within {_RUN_SECONDS:.0f} s"
    raise FedgrassError(message)


def _overheads(records: list[RoundRecord]) -> list[float]:
    """Return the seconds of each round without its training."""
    overheads = []
    since = records[0].round.opened_at
    for record in records:
        training = max(participant.train_seconds for participant in record.participants)
        overheads.append((record.round.closed_at - since) / 1000 - training)
        since = record.round.closed_at
    return overheads


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and all its descendants: devices, cores and cloud."""
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _idle_trainer_megabytes() -> float:
    """Return the largest resident memory of a trainer once all workers have ended."""
    deadline = time.monotonic() + 10 * _WARM_SECONDS
    while time.monotonic() < deadline:
        if not running("components.trainer.worker"):
            return max(process.memory_info().rss for process in running("components.trainer")) / 1e6
        time.sleep(0.2)
    message = f"the workers of {TRAINER} did not end"
    raise FedgrassError(message)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 and 4 devices, five rounds each")
    quick = parser.parse_args().quick
    figures: dict[str, Any] = {}
    idle_mb = 0.0
    for devices in (1, 4) if quick else (1, 4, 16):
        measured = measure(devices, 5 if quick else 10)
        idle_mb = max(idle_mb, measured.pop("trainer_rss_mb"))
        figures[str(devices)] = measured
        times = _FLOWER_SECONDS[devices] / measured["overhead_s"]
        print(
            f"{devices:3} devices: {measured['overhead_s']:.2f} s of overhead a round"
            f" (slowest {measured['overhead_slowest_s']:.2f} s; Flower {_FLOWER_SECONDS[devices]:.2f} s,"
            f" {times:.0f} times as long), {measured['cpu_s_per_device_round']:.2f} CPU seconds per"
            " device and round including the cloud",
            flush=True,
        )
    print(f"an idle trainer has {idle_mb:.0f} MB of resident memory (Flower's node: 258 MB)")
    print(json.dumps({"devices": figures, "idle_trainer_rss_mb": idle_mb}))


if __name__ == "__main__":
    try:
        main()
    except FedgrassError as error:
        sys.exit(f"round_overhead: {error}")
