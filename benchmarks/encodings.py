"""The cost and benefit of each encoding: bytes, accuracy after 10 rounds, seconds.

    python -m benchmarks.encodings [--quick]

Accuracy: 6 simulated devices train ``digits`` for 10 rounds of one epoch in one process, with the actual
training, encoders and decoders, for uploads and, in the rows "both ways", downloads. Accuracy is measured on
images that no device trains on: mean, lowest and highest of 5 seeds (--quick: 1).

Seconds: to encode a model of 100 MB of normal noise (--quick: 20 MB, scaled to 100) into a file in memory,
and to decode that file (float32 is not copied, so that decoding takes no time); the best of 3.
"""

import io
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from components.trainer.tasks.digits import Digits
from fedgrass.federation import encodings, weights
from fedgrass.federation.encodings import Feedback
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.weights import Layout

QUESTION = "encodings"
_DEVICES, _ROUNDS, _EPOCHS = 6, 10, 1
_MEGABYTE = 1_000_000
Model = dict[str, NDArray[Any]]


class Wire(NamedTuple):
    """The encodings of uploads and of downloads."""

    upload: Encoding
    download: Encoding = Encoding()


_WIRES: Mapping[str, Wire] = {
    "float32": Wire(Encoding()),
    "float16": Wire(Encoding(kind="float16")),
    "bfloat16": Wire(Encoding(kind="bfloat16")),
    "int8": Wire(Encoding(kind="int8")),
    "bfloat16 difference": Wire(Encoding(kind="bfloat16", difference=True)),
    "int8 difference": Wire(Encoding(kind="int8", difference=True)),
    "top_k 10 %": Wire(Encoding(kind="top_k", difference=True, fraction=0.1)),
    "top_k 1 %": Wire(Encoding(kind="top_k", difference=True, fraction=0.01)),
    "bfloat16 both ways": Wire(Encoding(kind="bfloat16", difference=True), Encoding(kind="bfloat16")),
    "int8 both ways": Wire(Encoding(kind="int8", difference=True), Encoding(kind="int8")),
}


class Trained(NamedTuple):
    """The result of one training."""

    accuracy: float
    update_bytes: int
    download_bytes: int


def train(tasks: list[Digits], wire: Wire, seed: int) -> Trained:
    """Train ``digits`` for all rounds with the given encodings."""
    rng = np.random.default_rng(seed)
    model: Model = dict(tasks[0].initial_weights(seed))
    feedbacks: list[Feedback] = [{} for _ in tasks]
    update = download = b""
    for number in range(_ROUNDS):
        file = weights.encode(model)
        download = encodings.encode_model(file, wire.download)
        total = {name: np.zeros(array.shape) for name, array in model.items()}
        examples = 0
        for task, feedback in zip(tasks, feedbacks, strict=True):
            start, layout = encodings.decode_model(download, wire.download)
            fit = task.fit(
                start, {"epochs": _EPOCHS, "seed": seed * _ROUNDS + number}, lambda _: None, lambda: False
            )
            begun = start if wire.upload.difference else None
            error_feedback = feedback if wire.upload.kind == "top_k" else None
            update = file_of(encodings.encode(fit.weights, layout, wire.upload, rng, error_feedback, begun))
            examples += fit.examples
            for name, array in encodings.decode(update, layout, wire.upload).items():
                total[name] += np.asarray(array, np.float64) * fit.examples
        for name, summed in total.items():
            base = model[name] if wire.upload.difference else 0
            model[name] = (base + summed / examples).astype(model[name].dtype)
    accuracy = tasks[0].evaluate_held_out(model).metrics["accuracy"]
    return Trained(accuracy, len(update), len(download))


def file_of(arrays: dict[str, weights.Encoded]) -> bytes:
    """Return a weights file in memory."""
    target = io.BytesIO()
    weights.write(arrays, target)
    return target.getvalue()


def seconds(encoding: Encoding, megabytes: int) -> dict[str, float]:
    """Return the seconds to encode and to decode 100 MB, and the bytes per parameter."""
    count = megabytes * _MEGABYTE // 4
    values: Model = {"w": np.random.default_rng(1).standard_normal(count, dtype=np.float32)}
    layout = Layout({"w": weights.Array("F32", (count,), 0, count * 4)}, 0, count * 4)
    encoded, decoded, size = [], [], 0
    for _ in range(3):
        started = time.perf_counter()
        data = file_of(encodings.encode(values, layout, encoding, np.random.default_rng(1)))
        between = time.perf_counter()
        encodings.decode(data, layout, encoding)
        encoded.append(between - started)
        decoded.append(time.perf_counter() - between)
        size = len(data)
    per_100 = 100 / megabytes
    return {
        "bytes_per_parameter": round(size / count, 3),
        "encode_seconds": round(min(encoded) * per_100, 3),
        "decode_seconds": round(min(decoded) * per_100, 3),
    }


def main() -> None:
    """Run the command line."""
    options = benchmark_parser(__doc__, "one seed, 20 MB").parse_args()
    quick = options.quick
    tasks = [Digits(share=share, shares=_DEVICES) for share in range(_DEVICES)]
    figures: dict[str, dict[str, float]] = {}
    for name, wire in _WIRES.items():
        runs = [train(tasks, wire, seed) for seed in range(1 if quick else 5)]
        accuracies = [run.accuracy for run in runs]
        figures[name] = {
            "update_bytes": runs[0].update_bytes,
            "download_bytes": runs[0].download_bytes,
            "accuracy": round(statistics.mean(accuracies), 4),
            "lowest_accuracy": round(min(accuracies), 4),
            "highest_accuracy": round(max(accuracies), 4),
            **seconds(wire.upload, 20 if quick else 100),
        }
        print(f"{name:20} {figures[name]}", flush=True)
    measured = {"devices": _DEVICES, "rounds": _ROUNDS, "encodings": figures}
    finish(QUESTION, options, measured, seeds=range(1 if quick else 5))


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
