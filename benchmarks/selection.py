"""The cost of choosing a cohort, and the effect of each selection strategy on a fleet.

    python -m benchmarks.selection [--quick]

Opening: the devices table of an embedded cloud has devices of which 90 % are live; a cohort of 100 is chosen
from a sample, and from all devices. The rows read are what AWS would bill. The seconds are MiniStack's, which
sorts and hashes its whole table for each request, so only the rows show how the cost grows. For a million
devices, the same code reads a table in memory that counts the rows. ``choices`` are the rows and requests for
each kind of round: training and evaluation, with a number of devices and with all, and 5 replacements for
lost devices.

Choosing: microseconds of each strategy for 10,000 candidates.

Fleet: 200 devices of log-normal speed, one in five a straggler (5 times slower), 200 rounds with a cohort of
20: the mean duration of a round that waits for all devices and of one that closes at 80 %, and how many
devices are left out.
"""

import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.fleets.selection_reads import NOW, HashedTable, reads
from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from cloud_functions.aws.device_directory import DynamoDevices
from fedgrass.federation.selection import SELECTIONS, Candidate, Choose, average_turnaround
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud

QUESTION = "selection"
_COHORT = 100
_DEAD_SHARE = 0.1
_WRITES = 25  # rows: the most that one request accepts
_TRIES = 5
_DEVICES, _ROUNDS, _ASKED = 200, 200, 20
_LONG_AGO = 100  # rounds


def opening(cloud: EmbeddedCloud, devices: int) -> dict[str, Any]:
    """Return rows and seconds of choosing a cohort from a table with this number of devices."""
    client = cloud.client("dynamodb")
    table = f"bench-{devices}"
    client.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "device", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "device", "KeyType": "HASH"}],
    )
    for start in range(0, devices, _WRITES):
        rows = [{"PutRequest": {"Item": _row(n)}} for n in range(start, min(devices, start + _WRITES))]
        client.batch_write_item(RequestItems={table: rows})
    directory = DynamoDevices(client, table)
    choose = SELECTIONS["random"]
    with _counted(client) as read:
        started = time.perf_counter()
        for seed in range(_TRIES):
            found = directory.sample(NOW, _COHORT, _rng(seed))
            assert len(choose(found, _COHORT, _rng(seed))) == _COHORT  # noqa: S101 - an empty choice measures nothing
        figures: dict[str, Any] = {
            "sample_seconds": round((time.perf_counter() - started) / _TRIES, 3),
            "sample_rows": sum(read) / _TRIES,
            "sample_requests": len(read) / _TRIES,
        }
        started = time.perf_counter()
        assert len(choose(list(directory.seen_since(NOW)), _COHORT, _rng(0))) == _COHORT  # noqa: S101 - as above
        figures["full_seconds"] = round(time.perf_counter() - started, 3)
        figures["choices"] = reads(directory, read, _COHORT)
    client.delete_table(TableName=table)
    return figures


def _row(number: int) -> dict[str, Any]:
    """Return a device's row as the rule for heartbeats writes it."""
    seen = NOW - 1 if number % round(1 / _DEAD_SHARE) == 0 else NOW
    return {
        "device": {"S": f"device-{number:07}"},
        "last_seen": {"N": str(seen)},
        "state": {"S": "idle"},
        "tasks": {"S": "digits"},
        "examples": {"N": "300"},
        "component_version": {"S": "1.0.0"},
        "uptime_seconds": {"N": "3600"},
    }


@contextmanager
def _counted(client: Any) -> Iterator[list[int]]:
    """Collect the number of rows that each request reads."""
    read: list[int] = []

    def count(parsed: dict[str, Any], **_: object) -> None:
        read.append(parsed["ScannedCount"])

    events = {"after-call.dynamodb.Scan": count, "after-call.dynamodb.GetItem": lambda **_: read.append(1)}
    for event, handler in events.items():
        client.meta.events.register(event, handler)
    try:
        yield read
    finally:
        for event, handler in events.items():
            client.meta.events.unregister(event, handler)


def opening_in_memory(devices: int) -> dict[str, Any]:
    """Return the rows and requests of a sample from a table in memory."""
    table = HashedTable(devices)
    for seed in range(_TRIES):
        assert len(table.sample(NOW, _COHORT, _rng(seed))) >= _COHORT  # noqa: S101 - an empty sample measures nothing
    rows, requests = sum(table.read) / _TRIES, len(table.read) / _TRIES
    return {"sample_rows": rows, "sample_requests": requests, "choices": reads(table, table.read, _COHORT)}


def choosing(candidates: int) -> dict[str, float]:
    """Return the microseconds that each strategy needs to choose a cohort."""
    rng = _rng(0)
    fleet = [
        Candidate(
            f"device-{number:07}",
            NOW,
            examples=rng.randrange(1, 1000),
            average_seconds=rng.lognormvariate(2, 0.5) if number % 10 else None,
            loss=rng.random() if number % 10 else None,
            rounds_since_measured=rng.randrange(1, 100),
        )
        for number in range(candidates)
    ]
    figures: dict[str, float] = {}
    for name, choose in SELECTIONS.items():
        times = []
        for seed in range(_TRIES):
            started = time.perf_counter()
            choose(fleet, _COHORT, _rng(seed))
            times.append(time.perf_counter() - started)
        figures[name] = round(1e6 * min(times))
    return figures


def fleet_rounds(choose: Choose) -> dict[str, float]:
    """Return the figures of a simulated fleet with a selection strategy."""
    rng = _rng(11)
    stragglers = _DEVICES // 5
    seconds = [rng.lognormvariate(math.log(10), 0.4) * (5 if n < stragglers else 1) for n in range(_DEVICES)]
    fleet = [Candidate(f"device-{n:03}", NOW, examples=rng.randrange(50, 500)) for n in range(_DEVICES)]
    lengths: list[tuple[float, float]] = []
    cohorts: list[int] = []
    straggling = 0
    for _ in range(_ROUNDS):
        chosen = set(choose(fleet, _ASKED, rng))
        times = {n: seconds[n] * rng.lognormvariate(0, 0.1) for n in range(_DEVICES) if _name(n) in chosen}
        cohorts.append(len(times))
        straggling += sum(n < stragglers for n in times)
        lengths.append(_length(list(times.values())))
        fleet = [_after(fleet[n], times.get(n), rng) for n in range(_DEVICES)]
    return {
        "round_seconds": round(statistics.mean(length for length, _ in lengths), 1),
        "round_seconds_at_80_percent": round(statistics.mean(length for _, length in lengths), 1),
        "mean_cohort": round(statistics.mean(cohorts), 1),
        "empty_rounds": cohorts.count(0),
        "never_asked": sum(candidate.times_asked == 0 for candidate in fleet),
        f"not_asked_for_{_LONG_AGO}_rounds": sum((c.rounds_since_asked or 0) > _LONG_AGO for c in fleet),
        "straggler_share": round(straggling / max(1, sum(cohorts)), 3),
    }


def _name(number: int) -> str:
    return f"device-{number:03}"


def _length(times: Sequence[float]) -> tuple[float, float]:
    """Return the seconds until all and until 80 % have replied; 0 without devices."""
    ordered = sorted(times)
    return (ordered[-1], ordered[math.ceil(0.8 * len(ordered)) - 1]) if ordered else (0.0, 0.0)


def _after(candidate: Candidate, seconds: float | None, rng: random.Random) -> Candidate:
    """Return a candidate after a round in which it took ``seconds``, or was not asked if None."""
    if seconds is None:
        older = (candidate.rounds_since_measured or 0) + 1 if candidate.times_asked else None
        return msgspec.structs.replace(candidate, rounds_since_measured=older, rounds_since_asked=older)
    return msgspec.structs.replace(
        candidate,
        average_seconds=average_turnaround(candidate.average_seconds, seconds),
        # A device's data teaches less each time.
        loss=2.3 * 0.95**candidate.times_asked * rng.lognormvariate(0, 0.1),
        rounds_since_measured=1,
        rounds_since_asked=1,
        times_asked=candidate.times_asked + 1,
    )


def _rng(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable figures, not a secret


def main() -> None:
    """Run the command line."""
    options = benchmark_parser(__doc__, "no table of 100,000 devices").parse_args()
    quick = options.quick
    openings: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder,
        EmbeddedCloud(Path(folder)) as cloud,
    ):
        for devices in (1_000, 10_000) if quick else (1_000, 10_000, 100_000):
            openings[str(devices)] = opening(cloud, devices)
            print(f"{devices:9,} devices, cohort {_COHORT}: {openings[str(devices)]}", flush=True)
    for devices in (100_000, 1_000_000) if quick else (1_000_000,):
        openings[f"{devices} in memory"] = opening_in_memory(devices)
        print(f"{devices:9,} devices in memory: {openings[f'{devices} in memory']}", flush=True)
    microseconds = choosing(10_000)
    print(f"microseconds to choose {_COHORT} of 10,000 candidates: {microseconds}")
    fleets = {name: fleet_rounds(choose) for name, choose in SELECTIONS.items()}
    for name, figures in fleets.items():
        print(f"{name:18} {figures}")
    finish(QUESTION, options, {"opening": openings, "choose_microseconds": microseconds, "fleet": fleets})


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
