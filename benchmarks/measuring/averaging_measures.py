"""The measurements of benchmarks.averaging, each run in a separate process."""

import argparse
import json
import mmap
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import boto3
import msgspec
import numpy as np
import psutil

from benchmarks.measuring.file_bucket import FileBucket
from cloud_functions.aggregation import aggregation_context, new_model
from cloud_functions.aws.powertools_log import PowertoolsLog
from cloud_functions.aws.s3 import S3Bucket
from cloud_functions.services import Services
from fedgrass.federation.rounds import Participant, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings

_FAR = 2**62  # milliseconds: the lease never expires
MEGABYTE = 1_000_000


def ours(folder: Path, clients: int, strategy: str) -> dict[str, float]:
    """Average the updates in a folder once; return seconds and peak memory."""
    bucket = FileBucket(folder)
    _into_the_page_cache(folder, clients)
    return _measured(lambda: _make(bucket, _replies(folder, clients), strategy))


def _into_the_page_cache(folder: Path, clients: int) -> None:
    """Read the files once: the memory of a peer may have evicted some of them before."""
    buffer = bytearray(MEGABYTE)
    for path in sorted(folder.glob("updates__*"))[:clients]:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                continue


def _make(bucket: Any, replies: Sequence[Participant], strategy: str) -> None:
    settings = parse_settings({"task": "noise", "aggregation": strategy})
    run = Run(
        name="bench",
        state=RunState.RUNNING,
        settings=settings,
        started_at=0,
        initial_sha256="",
        initial_bytes=0,
    )
    round_ = Round(
        run="bench",
        number=1,
        attempt=1,
        state=State.AGGREGATING,
        asked=len(replies),
        needed=len(replies),
        minimum=1,
        opened_at=0,
        deadline_at=_FAR,
        base_sha256="",
        base_bytes=0,
        lease_until=_FAR,
    )
    services = Services(
        fleet="bench",
        rounds=cast(Any, None),
        devices=cast(Any, None),
        thing_groups=cast(Any, None),
        bucket=bucket,
        publisher=cast(Any, None),
        alarms=cast(Any, None),
        now=lambda: 0,
        log=PowertoolsLog("bench", sys.stderr),
        lease_seconds=900,
    )
    new_model.make(aggregation_context.begin(services, run, round_), replies, [])


def from_s3(folder: Path, clients: int, strategy: str) -> dict[str, float]:
    """Average the same updates from the bucket ``bench`` of the embedded cloud named by the environment."""
    create: Any = boto3.client
    bucket = S3Bucket(create("s3"), "bench")
    return _measured(lambda: _make(bucket, _replies(folder, clients), strategy))


def _replies(folder: Path, clients: int) -> list[Participant]:
    return msgspec.json.decode((folder / "replies.json").read_bytes(), type=list[Participant])[:clients]


def memory(folder: Path, clients: int, _strategy: str) -> dict[str, float]:
    """Read the same bytes with one core from mapped pages; return GB/s."""
    seconds = size = 0.0
    for path in sorted(folder.glob("updates__*"))[:clients]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            mapped.madvise(mmap.MADV_POPULATE_READ if hasattr(mmap, "MADV_POPULATE_READ") else 22)
            values = np.frombuffer(mapped, np.uint64, count=len(mapped) // 8)
            began = time.perf_counter()
            int(values.max())
            seconds += time.perf_counter() - began
            size += len(mapped)
            del values
    return {"gb_per_s": size / seconds / 1e9}


def read_limit(folder: Path, clients: int, _strategy: str) -> dict[str, float]:
    """Read the same files with one core into one reused buffer; return GB/s."""
    bucket = FileBucket(folder)
    buffer = memoryview(bytearray(bucket.range_bytes))
    _into_the_page_cache(folder, clients)
    size, began = 0, time.perf_counter()
    for path in sorted(folder.glob("updates__*"))[:clients]:
        key, whole = path.name.replace("__", "/"), path.stat().st_size // len(buffer) * len(buffer)
        for start in range(0, whole, len(buffer)):
            bucket.read_into(key, start, buffer)
        size += whole
    return {"gb_per_s": size / (time.perf_counter() - began) / 1e9}


def _measured(do: Callable[[], None]) -> dict[str, float]:
    before = _resident()
    began = time.perf_counter()
    do()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mb": (_peak() - before) / MEGABYTE}


def _resident() -> int:
    rss: int = psutil.Process().memory_info().rss
    return rss


def _peak() -> int:
    """Return the peak of this process's resident set, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    message = "/proc/self/status has no VmHWM"
    raise OSError(message)


def main() -> None:
    """Run one measurement; print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=list(MEASURES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("clients", type=int)
    parser.add_argument("--strategy", default="weighted_mean")
    options = parser.parse_args()
    print(json.dumps(MEASURES[options.what](options.folder, options.clients, options.strategy)))


MEASURES: dict[str, Callable[[Path, int, str], dict[str, float]]] = {
    "ours": ours,
    "s3": from_s3,
    "read": read_limit,
    "memory": memory,
}

if __name__ == "__main__":
    main()
