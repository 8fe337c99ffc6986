"""Time and memory of the averager, compared to Flower's aggregation in the same run.

    python -m benchmarks.averaging [--quick] [--clients 10 50 100] [--megabytes 100]

The averager reads the updates of N devices from files in the page cache (and once from the embedded cloud's
S3, ``embedded_s3``), checks headers, layout, checksums and finiteness, averages, and writes the new model
with its SHA-256, as ``cloud_functions.aggregation.new_model`` does in Lambda. Flower's
``FedAvg.aggregate_train`` receives its N replies in memory, as it requires, and decodes and averages them;
creating the replies is not timed. Each measurement runs in a separate process; its memory is the peak of the
resident set minus the resident set after the imports.

``growth`` is the exponent b of seconds = a N^b, fitted to all N: 1 is linear. Flower's figures are null where
it is not installed (``make .venv-flower/.installed``).

``read_limit_gb_per_s`` is the rate at which one core reads the same files from the page cache by read(2) into
one buffer (mapping them takes twice the time, because of page faults); ``memory_gb_per_s`` is the rate at
which one core reads pages that are already mapped.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.measuring.averaging_measures import MEGABYTE
from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.measuring.file_bucket import FileBucket
from benchmarks.measuring.processes import figures_of
from benchmarks.peers import peer_environments
from benchmarks.peers.peer_environments import ROOT, PeerEnvironment
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participant, Participation
from fedgrass.federation.weights import checksum, encode
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud

QUESTION = "averaging"
_FLOWER = ROOT / "benchmarks" / "peers" / "flower_averaging.py"
_TIMES = 3  # repetitions, in turns: other virtual machines share the hardware
_STRATEGIES = ("weighted_mean", "fedadam", "median", "trimmed_mean", "krum", "multi_krum", "q_fedavg")


def write_updates(folder: Path, clients: int, floats: int) -> None:
    """Write a base model of four arrays and one update for each client, as devices write them."""
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


def in_a_process(
    folder: Path, what: str, clients: int, strategy: str = "weighted_mean", **environment: str
) -> dict[str, float]:
    """Measure in a separate process, with one BLAS thread as in Lambda."""
    measurement = ["-m", "benchmarks.measuring.averaging_measures", what, str(folder), str(clients)]
    command = [sys.executable, *measurement, "--strategy", strategy]
    return figures_of(command, {"OPENBLAS_NUM_THREADS": "1", **environment})


def compare(
    folder: Path, clients: int, megabytes: float, times: int, flower: PeerEnvironment | None
) -> dict[str, Any]:
    """Return one line of the table: medians of measurements taken in turns."""
    turns: list[dict[str, dict[str, float]]] = []
    for _ in range(times):
        turn = {what: in_a_process(folder, what, clients) for what in ("memory", "ours", "read")}
        if flower:
            command = [str(flower.python), str(_FLOWER), str(folder), str(clients)]
            turn["flower"] = figures_of(command, {"OPENBLAS_NUM_THREADS": "1"})
        turns.append(turn)

    def median(what: str, figure: str) -> float:
        return statistics.median(turn[what][figure] for turn in turns)

    seconds = median("ours", "seconds")
    return {
        "n": clients,
        "model_mb": megabytes,
        "seconds": round(seconds, 3),
        "flower_seconds": round(median("flower", "seconds"), 3) if flower else None,
        "times_flower": round(median("flower", "seconds") / seconds, 2) if flower else None,
        "peak_mb": round(median("ours", "peak_mb")),
        "flower_peak_mb": round(median("flower", "peak_mb")) if flower else None,
        "gb_per_s": round(clients * megabytes / 1000 / seconds, 2),
        "read_limit_gb_per_s": round(median("read", "gb_per_s"), 2),
        "memory_gb_per_s": round(median("memory", "gb_per_s"), 2),
    }


def growth(counts: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Return b of seconds = a N^b by least squares of the logarithms; None for a single count."""
    if len(counts) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    slope, _ = np.polyfit(np.log(counts), np.log(seconds), 1)
    return round(float(slope), 2)


def from_the_embedded_s3(folder: Path, clients: int) -> dict[str, float]:
    """Average the updates from the embedded cloud's S3."""
    with tempfile.TemporaryDirectory() as state, EmbeddedCloud(Path(state)) as cloud:
        client, bucket = cloud.client("s3"), FileBucket(folder)
        client.create_bucket(Bucket="bench")
        keys = [object_keys.update(f"thing-{number:04}", "bench", 1, 1) for number in range(clients)]
        for key in [object_keys.model("bench", 0), *keys]:
            client.put_object(Bucket="bench", Key=key, Body=bucket.path(key).read_bytes())
        figures = in_a_process(folder, "s3", clients, **cloud.environment())
    return {"n": clients, **{name: round(value, 3) for name, value in figures.items()}}


def main() -> None:
    """Measure; print a table and the JSON line."""
    options = _options()
    flower = peer_environments.flower()
    if flower is None:
        print("flower is not installed: its figures are null (make .venv-flower/.installed)")
    folder = Path(tempfile.mkdtemp(prefix="fedgrass-averaging-", dir=options.folder))
    try:
        figures = measure(folder, options, flower)
    finally:
        shutil.rmtree(folder)
    finish(QUESTION, options, figures, seeds=[0], peers={"flower": flower.version if flower else None})


def measure(folder: Path, options: argparse.Namespace, flower: PeerEnvironment | None) -> dict[str, Any]:
    """Return all figures, and print them."""
    counts = options.clients
    write_updates(folder, max(counts), round(options.megabytes * MEGABYTE / 4))
    times = 1 if options.quick else _TIMES
    table = [compare(folder, clients, options.megabytes, times, flower) for clients in counts]
    for line in table:
        print(line)
    figures: dict[str, Any] = {"sizes": table}
    figures["growth"] = growth(counts, [line["seconds"] for line in table])
    figures["flower_growth"] = growth(counts, [line["flower_seconds"] for line in table]) if flower else None
    print(f"seconds grow as N^{figures['growth']}, Flower's as N^{figures['flower_growth']}")
    figures["embedded_s3"] = from_the_embedded_s3(folder, min(counts))
    print("from the embedded S3:", figures["embedded_s3"])
    figures["strategies"] = {}
    for name in _STRATEGIES:
        one = in_a_process(folder, "ours", max(counts), name)
        figures["strategies"][name] = {key: round(value, 3) for key, value in one.items()}
        print(f"{name:16} {one['seconds']:8.2f} s {one['peak_mb']:8.0f} MB")
    return figures


def _options() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, "10 and 20 devices, 20 MB each")
    parser.add_argument("--clients", type=int, nargs="+", help="how many devices (10 50 100)")
    parser.add_argument("--megabytes", type=float, help="size of an update (100)")
    parser.add_argument("--folder", type=Path, help="for the updates of all devices")
    options = parser.parse_args()
    options.clients = options.clients or ([10, 20] if options.quick else [10, 50, 100])
    options.megabytes = options.megabytes or (20.0 if options.quick else 100.0)
    return options


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
