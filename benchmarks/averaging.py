"""How fast the averager is, and how much memory it takes, beside Flower's aggregation in the same run.

    python -m benchmarks.averaging [--quick] [--clients 10 50 100] [--megabytes 100]

Ours reads the updates of N devices from files in the page cache (and once from the embedded cloud's S3),
checks header, layout, checksums and finiteness, averages, and writes the new model with its SHA-256: what
``cloud_functions.new_model`` does in Lambda. Flower's ``FedAvg.aggregate_train`` gets its N replies in
memory, which it needs, and decodes and averages them; making the replies is not timed. Each measurement is a
process of its own; its memory is the peak of the resident set above what the imports took. The read limit is
one core that reads the same files, mapped into memory, from the page cache.
"""

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import psutil

from benchmarks.file_bucket import FileBucket
from cloud_functions import making, new_model
from cloud_functions.cloud import Cloud
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import parse_settings
from fedgrass.federation.weights import checksum, encode

STRATEGIES: dict[str, dict[str, Any]] = {
    "weighted_mean": {},
    "fedadam": {},
    "median": {},
    "trimmed_mean": {},
    "krum": {},
    "multi_krum": {},
    "q_fedavg": {},
}
FAR = 2**62  # milliseconds: the lease of a measurement never ends
MEGABYTE = 1_000_000
TIMES = 3


def write_updates(folder: Path, clients: int, floats: int) -> None:
    """Write a base model and one update for each client, as devices do, in four arrays."""
    bucket = FileBucket(folder)
    rng = np.random.default_rng(0)
    base = _model(rng, floats)
    bucket.path(object_keys.model("bench", 0)).write_bytes(encode(base))
    replies = []
    for number in range(clients):
        change = np.float32(rng.standard_normal() * 0.01)
        data = encode({name: array + change for name, array in base.items()})
        device = f"thing-{number:04}"
        bucket.path(object_keys.update(device, "bench", 1, 1)).write_bytes(data)
        replies.append(
            Participant(
                device=device,
                state=Participation.REPLIED,
                announced_at=0,
                bytes=len(data),
                checksum=checksum(data),
                examples=100 + number,
                metrics={"loss": 1.0},
            )
        )
    (folder / "replies.json").write_bytes(msgspec.json.encode(replies))


def _model(rng: np.random.Generator, floats: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    sizes = {"body.0": floats // 2, "body.1": floats // 4, "head": floats // 8}
    sizes["tail"] = floats - sum(sizes.values())
    return {name: rng.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}


def ours(folder: Path, clients: int, strategy: str) -> dict[str, float]:
    """Average the updates in a folder once; return seconds and the peak of memory."""
    bucket = FileBucket(folder)
    replies = msgspec.json.decode((folder / "replies.json").read_bytes(), type=list[Participant])[:clients]
    return _measured(lambda: _make(bucket, replies, strategy))


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
    leased = Round(
        run="bench",
        number=1,
        attempt=1,
        state=State.AGGREGATING,
        asked=len(replies),
        needed=len(replies),
        minimum=1,
        opened_at=0,
        deadline_at=FAR,
        base_sha256="",
        base_bytes=0,
        lease_until=FAR,
    )
    cloud = Cloud(
        fleet="bench",
        rounds=cast(Any, None),
        devices=cast(Any, None),
        thing_groups=cast(Any, None),
        bucket=bucket,
        publisher=cast(Any, None),
        alarms=cast(Any, None),
        now=lambda: 0,
        log=print,
        lease_seconds=900,
    )
    new_model.make(making.begin(cloud, run, leased), replies, [])


def flower(folder: Path, clients: int) -> dict[str, float]:
    """Have Flower average the same updates once; its replies are made before the clock starts."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import logging  # noqa: PLC0415 - this process alone needs these

    from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict  # noqa: PLC0415
    from flwr.serverapp.strategy import FedAvg  # noqa: PLC0415
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    from fedgrass.federation.weights import decode  # noqa: PLC0415

    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    bucket = FileBucket(folder)
    found = msgspec.json.decode((folder / "replies.json").read_bytes(), type=list[Participant])[:clients]
    before = _resident()

    def reply(node: int, one: Participant) -> Message:
        data = bucket.path(object_keys.update(one.device, "bench", 1, 1)).read_bytes()
        arrays = ArrayRecord({name: Array(np.asarray(array)) for name, array in decode(data).items()})
        content = RecordDict(
            {"arrays": arrays, "metrics": MetricRecord({"num-examples": one.examples, "train_loss": 1.0})}
        )
        return Message(content=content, dst_node_id=node, message_type=MessageType.TRAIN)

    replies = [reply(node, one) for node, one in enumerate(found, start=1)]
    strategy = FedAvg()

    def aggregate() -> None:
        arrays, _ = strategy.aggregate_train(1, replies)
        if arrays is None:
            message = "Flower aggregated nothing"
            raise RuntimeError(message)

    return _measured(aggregate, before)


def read_limit(folder: Path, clients: int) -> dict[str, float]:
    """Read the same files with one core, mapped into memory; return GB/s."""
    paths = sorted(folder.glob("updates__*"))[:clients]
    best = 0.0
    for _ in range(TIMES):
        seconds = size = 0.0
        for path in paths:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                mapped.madvise(mmap.MADV_POPULATE_READ if hasattr(mmap, "MADV_POPULATE_READ") else 22)
                values = np.frombuffer(mapped, np.uint64, count=len(mapped) // 8)
                began = time.perf_counter()
                int(values.max())
                seconds += time.perf_counter() - began
                size += len(mapped)
                del values
        best = max(best, size / seconds / 1e9)
    return {"gb_per_s": best}


def _measured(do: Callable[[], None], before: int | None = None) -> dict[str, float]:
    before = before or _resident()
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


MEASURES: dict[str, Callable[..., dict[str, float]]] = {"ours": ours, "flower": flower, "read": read_limit}


def in_a_process(folder: Path, what: str, clients: int, strategy: str = "") -> dict[str, float]:
    """Measure in a process of its own; one thread for BLAS, as the averager has in Lambda."""
    command = [sys.executable, "-m", "benchmarks.averaging", "--measure", what, "--folder", str(folder)]
    command += ["--clients", str(clients), *(["--strategy", strategy] if strategy else [])]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=900)
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return figures


def median_of(folder: Path, what: str, clients: int, times: int, strategy: str = "") -> dict[str, float]:
    """Measure some times; return the medians."""
    figures = [in_a_process(folder, what, clients, strategy) for _ in range(times)]
    return {name: statistics.median(one[name] for one in figures) for name in figures[0]}


def compare(folder: Path, clients: int, megabytes: float, times: int) -> dict[str, float]:
    """Return one line of the table."""
    ours_, flowers, limit = (
        median_of(folder, what, clients, times, "weighted_mean" if what == "ours" else "")
        for what in ("ours", "flower", "read")
    )
    return {
        "n": clients,
        "model_mb": megabytes,
        "seconds": round(ours_["seconds"], 3),
        "flower_seconds": round(flowers["seconds"], 3),
        "times_flower": round(flowers["seconds"] / ours_["seconds"], 2),
        "peak_mb": round(ours_["peak_mb"]),
        "flower_peak_mb": round(flowers["peak_mb"]),
        "gb_per_s": round(clients * megabytes / 1000 / ours_["seconds"], 2),
        "read_limit_gb_per_s": round(limit["gb_per_s"], 2),
    }


def main() -> None:
    """Measure, print a table and the JSON line."""
    options = _options()
    if options.measure:
        arguments = [options.folder, options.clients[0], *([options.strategy] if options.strategy else [])]
        print(json.dumps(MEASURES[options.measure](*arguments)))
        return
    counts = [10, 20] if options.quick else options.clients
    megabytes = 20 if options.quick else options.megabytes
    folder = Path(tempfile.mkdtemp(prefix="fedgrass-averaging-"))
    try:
        write_updates(folder, max(counts), round(megabytes * MEGABYTE / 4))
        table = [compare(folder, clients, megabytes, 1 if options.quick else TIMES) for clients in counts]
        for line in table:
            print(line)
        figures: dict[str, Any] = dict(table[-1])
        figures["smaller"] = table[:-1]
        figures["strategies"] = {}
        for name in STRATEGIES:
            one = in_a_process(folder, "ours", max(counts), name)
            figures["strategies"][name] = {key: round(value, 3) for key, value in one.items()}
            print(f"{name:16} {one['seconds']:8.2f} s {one['peak_mb']:8.0f} MB")
        print(json.dumps(figures))
    finally:
        shutil.rmtree(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 devices of 20 MB")
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--measure", choices=list(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--strategy", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
