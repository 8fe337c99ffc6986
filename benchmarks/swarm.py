"""The whole path under load: light devices over MQTT, S3, rules, queues and functions of an embedded cloud.

    python -m benchmarks.swarm [--quick] [--devices 1000] [--rounds 3] [--averagers 6]

``fedgrass swarm`` with its defaults: each device has its own MQTT session, certificate and credentials, and
an update of 0.1 MB. ``exact``: each reply was counted exactly once in every round;
``round_seconds`` is the median of the rounds, from the selection of the devices until the round was closed.
Processor seconds are of a reply: ``client_ms`` of the devices' processes, ``cloud_ms`` of the embedded cloud
(broker, rules, tables, bucket), ``function_ms`` of the functions' processes.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from fedgrass.swarm.swarm_action import SwarmOptions, run_options
from fedgrass.swarm.swarm_measures import CLIENT, CLOUD, FUNCTIONS
from fedgrass.swarm.swarm_run import SwarmReport

QUESTION = "swarm"


def main() -> None:
    """Measure; print the steps and the JSON line."""
    parser = benchmark_parser(__doc__, "100 devices, 2 rounds")
    parser.add_argument("--devices", type=int, help="light devices (1000)")
    parser.add_argument("--rounds", type=int, help="rounds (3)")
    parser.add_argument("--averagers", type=int, default=6, help="averagers that count replies (6)")
    options = parser.parse_args()
    finish(QUESTION, options, measure(options), seeds=[0])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one swarm."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = SwarmOptions(
            devices=options.devices or (100 if options.quick else 1000),
            rounds=options.rounds or (2 if options.quick else 3),
            averagers=options.averagers,
            out=Path(folder),
        )
        return figures_of(run_options(chosen, print))


def figures_of(report: SwarmReport) -> dict[str, Any]:
    """Return the figures of a swarm's report."""
    replies = max(1, report.replies_counted)
    used = {name: cores * report.load.seconds for name, cores in report.load.groups.items()}
    took, rates = report.turnaround, report.messages
    return {
        "devices": report.devices,
        "exact": report.exact,
        "replies_counted": report.replies_counted,
        "round_seconds": round(statistics.median(one.seconds for one in report.rounds), 2),
        "announce_seconds": round(statistics.median(one.announce_seconds for one in report.rounds), 2),
        "turnaround_p50": took.p50 if took else None,
        "turnaround_p95": took.p95 if took else None,
        "turnaround_p99": took.p99 if took else None,
        "messages_per_second": round(rates.sent_per_second + rates.received_per_second, 1),
        "client_ms": round(1000 * used.get(CLIENT, 0.0) / replies, 2),
        "cloud_ms": round(1000 * used.get(CLOUD, 0.0) / replies, 2),
        "function_ms": round(1000 * used.get(FUNCTIONS, 0.0) / replies, 2),
        "dynamodb_requests": report.dynamodb.per_device_round if report.dynamodb else None,
        "dynamodb_reads": report.dynamodb.reads_per_device_round if report.dynamodb else None,
        "dynamodb_transactions": report.dynamodb.transactions_per_device_round if report.dynamodb else None,
        "connect_seconds": report.connect_seconds,
        "bottleneck": report.bottleneck,
    }


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
