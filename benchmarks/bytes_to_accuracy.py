"""What travels until a model is good: bytes down and up to 90 %, by encoding and for partial models.

    python -m benchmarks.bytes_to_accuracy [--quick] [--only PART ...] [--data FOLDER] [--workers N]
                                           [--picture FILE]

Each is a simulation with the real round machine, encoders and averager, and counts the files of models that
devices download and of updates that they upload, until the global model reaches 90 % on examples that no
device trains on.

- Encodings: a perceptron of 109,386 parameters on MNIST; 20 devices of 300 images, all of them in each
  round. ``top_k`` has error feedback. "both ways" also encodes the model.
- Partial models: a transformer of 339,462 parameters on the vibration of machines
  (docs/examples/lora); 4 devices train and send all of it, or adapters and the last layer only. The base is
  trained first and does not travel in either case. Accuracy is on 400 windows of one machine.

With --quick, one seed, and a third of the encodings on the digits of scikit-learn. What
benchmarks.encodings and benchmarks.partial_models measure in addition: seconds, and private arrays.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.simulated.curve_pictures import draw_curves
from benchmarks.simulated.learning_curves import (
    Curve,
    Stopwatch,
    in_words,
    mean_and_spread,
    say,
    simulate,
    values_of,
)
from benchmarks.simulated.learning_setups import COMMON, FLEET, mnist_folder, trained
from benchmarks.simulated.simulation_options import add_simulation_options, seeds_of, workers_of
from components.trainer.tasks.registry import load_task
from fedgrass.local.task_sharing import initial_model
from fedgrass.simulation.simulation_spec import SimulationSpec

_QUESTION = "bytes_to_accuracy"
_TARGET = 0.9
_EXAMPLES = Path(__file__).parents[1] / "docs" / "examples" / "lora"
_DEVICES, _DIGITS_DEVICES, _ROUNDS = 20, 8, 120
_IMAGES = 300  # of each device
_LORA_DEVICES, _LORA_ROUNDS, _LORA_TESTED = 4, 15, 400
_BASE_STEPS = 500

ENCODINGS: Mapping[str, Mapping[str, Any]] = {
    "float32": {},
    "float16": {"upload_encoding": "float16"},
    "bfloat16": {"upload_encoding": "bfloat16"},
    "int8": {"upload_encoding": "int8"},
    "int8_difference": {"upload_encoding": "int8", "upload_difference": True},
    "top_k_10": {"upload_encoding": "top_k", "upload_difference": True, "top_k_fraction": 0.1},
    "top_k_1": {"upload_encoding": "top_k", "upload_difference": True, "top_k_fraction": 0.01},
    "bfloat16_both_ways": {
        "upload_encoding": "bfloat16",
        "upload_difference": True,
        "download_encoding": "bfloat16",
    },
    "int8_both_ways": {"upload_encoding": "int8", "upload_difference": True, "download_encoding": "int8"},
    "top_k_1_int8_down": {
        "upload_encoding": "top_k",
        "upload_difference": True,
        "top_k_fraction": 0.01,
        "download_encoding": "int8",
    },
}
_QUICK = ("float32", "int8_both_ways", "top_k_10")
PARTIAL: Mapping[str, int] = {"whole_model": 0, "adapters": 4}  # the rank of the adapters; 0: none


def encoding_spec(name: str, seed: int, folder: Path | None) -> SimulationSpec:
    """Return the simulation of an encoding; on the digits of scikit-learn without a folder of MNIST."""
    training = trained(epochs=1, rate=0.02, momentum=0.9, batch_size=60)
    options: dict[str, Any] = {"split_seed": seed}
    if folder is None:
        training = trained(epochs=3, rate=0.05, momentum=0.9, batch_size=8)
    else:
        options |= {"folder": str(folder), "model": "mlp"}
    settings: dict[str, Any] = {
        **COMMON,
        "rounds": _ROUNDS,
        "selection": "all",
        "training": training,
        **ENCODINGS[name],
    }
    return SimulationSpec(
        task="mnist" if folder else "digits",
        task_options=options,
        devices=_DEVICES if folder else _DIGITS_DEVICES,
        settings=settings,
        fleet=FLEET if folder is None else msgspec.structs.replace(FLEET, examples=_IMAGES),
        seed=seed,
    )


def partial_spec(name: str, seed: int, base: str) -> SimulationSpec:
    """Return the simulation of a whole or a partial model on a trained base; empty: on a random one."""
    options: dict[str, Any] = {"rank": PARTIAL[name], "base": base, "held_out": _LORA_TESTED}
    module = "vibration_task:Vibration"
    initial = initial_model(
        load_task("vibration", {**options, "module": module, "path": str(_EXAMPLES)}), seed
    )
    return SimulationSpec(
        task=f"vibration={module}",
        task_path=str(_EXAMPLES),
        task_options=options,
        devices=_LORA_DEVICES,
        settings={
            **COMMON,
            "rounds": _LORA_ROUNDS,
            "training": {"local_evaluation": False},
            **({"frozen_sha256": initial.frozen_sha256} if initial.frozen_sha256 else {}),
        },
        fleet=FLEET,
        seed=seed,
    )


def train_base(folder: Path) -> str:
    """Train the transformer's base; return its file."""
    file = folder / "base.safetensors"
    script = str(_EXAMPLES / "pretrain_base.py")
    command = [sys.executable, script, "--out", str(file), "--steps", str(_BASE_STEPS)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    say(found.stdout.strip())
    return str(file)


def figures_of(curves: Sequence[Curve], target: float) -> dict[str, Any]:
    """Return megabytes and rounds to the target over the seeds."""
    reached = [curve.reached(target) for curve in curves]
    return {
        "megabytes": mean_and_spread(values_of(reached, lambda point: point.bytes / 1e6), digits=2),
        "rounds": mean_and_spread(values_of(reached, lambda point: point.model), digits=1),
    }


def main() -> None:
    """Run the command line."""
    names = [*ENCODINGS, *PARTIAL]
    parser = benchmark_parser(__doc__, "one seed, three encodings, scikit-learn's digits; under 60 s")
    add_simulation_options(parser, names, "the accuracy over bytes")
    options = parser.parse_args()
    workers = workers_of(options)
    seeds = seeds_of(options)
    chosen = options.only or (_QUICK if options.quick else names)
    watch = Stopwatch()
    curves: dict[str, list[Curve]] = {}
    folder = None if options.quick else mnist_folder(options.data)
    if folder is None and not options.quick:
        say(f"{options.data / 'mnist'} does not have MNIST's four files: digits of scikit-learn are used")
    with tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as temporary:
        base = train_base(Path(temporary)) if set(chosen) & set(PARTIAL) else ""
        for name in chosen:
            curves[name] = [
                simulate(
                    f"{name}, seed {seed}",
                    partial_spec(name, seed, base) if name in PARTIAL else encoding_spec(name, seed, folder),
                    workers=workers,
                    until=_TARGET,
                )
                for seed in seeds
            ]
            found = figures_of(curves[name], _TARGET)
            say(f"{name:20} {in_words(found['megabytes'], ' MB')}, rounds {in_words(found['rounds'])}")
    if options.picture:
        shown = {name: found for name, found in curves.items() if name not in PARTIAL}
        title = f"bytes of {_DEVICES} devices, by encoding"
        draw_curves(shown, options.picture, by="megabytes", title=title, target=_TARGET)
        say(f"picture: {options.picture}")
    figures = {
        "target": _TARGET,
        **{name: figures_of(found, _TARGET) for name, found in curves.items()},
        **watch.figures(),
    }
    finish(_QUESTION, options, figures, seeds=seeds)


if __name__ == "__main__":
    run_benchmark(_QUESTION, main)
