"""What a round costs beside the training: seconds, processor time, and the memory of a trainer at rest.

    python -m benchmarks.round_overhead [--quick]

A numpy task with a model of 1 MB that trains in next to no time runs over 1, 4 and 16 Greengrass cores on one
machine, through everything that a round passes: the initiator, MQTT over TLS, IPC, S3, Stream Manager, the
rules, SQS, the averager. The overhead of a round is the time from the round before it closed to its own
closing, minus the slowest device's training.
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

from benchmarks.processes import running
from components.trainer.tasks.noise import Noise
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.local.testbed import TRAINER, Testbed, open_testbed, thing_names

MEGABYTES = 1
FLOWER_SECONDS = {1: 6.46, 4: 10.75, 16: 38.58}  # Flower 1.42 on two cores; ../shared/facts/cloud.md
_RUN_SECONDS = 300.0
_WARM_SECONDS = 3.0  # after which a trainer's worker ends, so that its rest can be measured


def measure(devices: int, rounds: int) -> dict[str, float]:
    """Return the figures of ``rounds`` rounds over ``devices`` devices."""
    configuration = {"tasks": {"noise": {"megabytes": MEGABYTES}}, "warm_seconds": _WARM_SECONDS}
    with (
        tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder,
        open_testbed(Path(folder), dict.fromkeys(thing_names(devices), configuration)) as site,
    ):
        settings = RunSettings(task="noise", rounds=rounds, deadline_seconds=120)
        processor_before = _processor_seconds()
        run = _run(site, settings)
        processor = _processor_seconds() - processor_before
        overheads = _overheads(list(site.operator.rounds(run)))
        return {
            "overhead_s": round(statistics.median(overheads), 3),
            "overhead_slowest_s": round(max(overheads), 3),
            "cpu_s_per_device_round": round(processor / devices / rounds, 3),
            "trainer_rss_mb": round(_idle_trainer_megabytes(), 1),
        }


def _run(site: Testbed, settings: RunSettings) -> Run:
    site.operator.start("bench", settings, Noise(megabytes=MEGABYTES).initial_weights(seed=0))
    deadline = time.monotonic() + _RUN_SECONDS
    while time.monotonic() < deadline:
        run = site.operator.run("bench")
        if run.state is RunState.SUCCEEDED:
            return run
        if run.state is RunState.FAILED:
            raise FedgrassError(run.reason)
        time.sleep(0.2)
    message = f"the run did not end within {_RUN_SECONDS:.0f} s"
    raise FedgrassError(message)


def _overheads(records: list[RoundRecord]) -> list[float]:
    """Return the seconds of each round that were no training."""
    overheads = []
    since = records[0].round.opened_at
    for record in records:
        training = max(participant.train_seconds for participant in record.participants)
        overheads.append((record.round.closed_at - since) / 1000 - training)
        since = record.round.closed_at
    return overheads


def _processor_seconds() -> float:
    """Return the processor time of this process and of all that it started: devices, cores and cloud."""
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
    """Return the largest resident memory of a trainer once all workers have gone."""
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
    resting = 0.0
    for devices in (1, 4) if quick else (1, 4, 16):
        measured = measure(devices, 5 if quick else 10)
        resting = max(resting, measured.pop("trainer_rss_mb"))
        figures[str(devices)] = measured
        times = FLOWER_SECONDS[devices] / measured["overhead_s"]
        print(
            f"{devices:3} devices: {measured['overhead_s']:.2f} s a round beside the training"
            f" (slowest {measured['overhead_slowest_s']:.2f} s; Flower {FLOWER_SECONDS[devices]:.2f} s,"
            f" {times:.0f} times as long), {measured['cpu_s_per_device_round']:.2f} processor seconds per"
            " device and round, the cloud's included",
            flush=True,
        )
    print(f"a trainer at rest has {resting:.0f} MB of memory (Flower's node: 258 MB)")
    print(json.dumps({"devices": figures, "idle_trainer_rss_mb": resting}))


if __name__ == "__main__":
    try:
        main()
    except FedgrassError as error:
        sys.exit(f"round_overhead: {error}")
