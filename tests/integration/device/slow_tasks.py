"""Misbehaving tasks, loaded by the worker by module name."""

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays


class Endless(Noise):
    """Trains until it is stopped; if deaf, it never calls ``stop``."""

    def __init__(self, deaf: bool = False) -> None:  # noqa: FBT001, FBT002 - an option of a configuration
        super().__init__(0.01)
        self._deaf = deaf

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        report(0.5)
        while self._deaf or not stop():
            time.sleep(0.01)
        return super().fit(weights, settings, report, stop)


class Patient(Noise):
    """Trains until it is stopped or a file exists, and then returns a partial fit: 7 of its 9 examples."""

    def __init__(self, until: str = "") -> None:
        super().__init__(0.01)
        self._until = Path(until) if until else None

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        report(0.5)
        while not stop() and not (self._until and self._until.exists()):
            time.sleep(0.01)
        fit = super().fit(weights, settings, report, stop)
        return Fit(fit.weights, 7, {"change": fit.metrics["change"]}, partial=True)

    def examples(self) -> int:
        return 9


class Heeding(Noise):
    """Reports a partial result if it is asked to stop."""

    def __init__(self) -> None:
        super().__init__(0.01)

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit(fit.weights, fit.examples, partial=stop())


class Bounded(Noise):
    """Reports the resource limits of its process as metrics."""

    def __init__(self) -> None:
        super().__init__(0.01)

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        found = {
            "niceness": float(os.getpriority(os.PRIO_PROCESS, 0)),
            "threads": float(os.environ["OMP_NUM_THREADS"]),
            "memory": float(resource.getrlimit(resource.RLIMIT_DATA)[0]),
            "oom": float(Path("/proc/self/oom_score_adj").read_text()),
            "process": float(os.getpid()),
        }
        return Fit(fit.weights, fit.examples, {**fit.metrics, **found})


class Hungry(Noise):
    """Allocates a gigabyte with numpy or torch."""

    def __init__(self, of: str = "numpy") -> None:
        super().__init__(0.01)
        self._of = of

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        if self._of == "torch":
            import torch  # noqa: PLC0415 - dear, and of no use to the others

            torch.ones(250_000_000)
        np.ones(125_000_000)
        return super().fit(weights, settings, report, stop)


class Broken(Noise):
    """Raises after printing to stdout, as user code does."""

    def evaluate(self, weights: Arrays) -> Evaluation:  # noqa: ARG002 - the signature of tasks
        sys.stdout.write("looking for the camera\n")
        sys.stdout.flush()
        os.write(1, b"a C library prints too\n")
        cameras: dict[str, Any] = {}
        return Evaluation(1, cameras["front"])


class Dying(Noise):
    """Kills its own process."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        os.kill(os.getpid(), 9)
        return super().evaluate(weights)


class Exiting(Noise):
    """Ends its process in a configurable way."""

    def __init__(self, code: int) -> None:
        super().__init__(0.01)
        self._code = code

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:  # noqa: ARG002 - the signature of tasks
        os._exit(self._code)


class Diverging(Noise):
    """Returns values that are not finite."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit({**fit.weights, "bias": np.full_like(weights["bias"], np.nan)}, fit.examples)


class Reshaping(Noise):
    """Returns a model with other arrays than it was given."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit({**fit.weights, "bias": weights["bias"][:-1]}, fit.examples)


class Forking(Noise):
    """Uses child processes, like torch's data loader with workers."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(abs, range(4))
        return super().evaluate(weights)


class Leaving(Noise):
    """Dies and leaves a child behind, which has written its process id."""

    def __init__(self, note: str) -> None:
        super().__init__(0.01)
        self._note = Path(note)

    def evaluate(self, weights: Arrays) -> Evaluation:
        if os.fork() == 0:
            self._note.write_text(f"{os.getpid()}\n", encoding="ascii")
            while True:
                time.sleep(1)
        while not self._note.exists() or not self._note.stat().st_size:
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
        return super().evaluate(weights)


class Returning(Noise):
    """Forks a child that returns as if it were the worker."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        child = os.fork()
        if child == 0:
            sys.exit(3)
        os.waitpid(child, 0)
        return super().evaluate(weights)


class Counting(Noise):
    """Returns counts as numpy scalars, or as any object given in ``examples`` and ``all_examples``."""

    def __init__(self, counted: float = 7, total: float = 9) -> None:
        super().__init__(0.01)
        self._counted, self._total = counted, total

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        report(np.float32(0.5))  # type: ignore[arg-type]
        fit = super().fit(weights, settings, report, stop)
        return Fit(fit.weights, np.float64(self._counted), fit.metrics)  # type: ignore[arg-type]

    def examples(self) -> int:
        return np.int64(self._total)  # type: ignore[return-value]


class _NoText(Exception):
    def __str__(self) -> str:
        raise ValueError


class Raising(Noise):
    """Raises an exception that is hard to describe."""

    def __init__(self, what: str) -> None:
        super().__init__(0.01)
        self._what = what

    def evaluate(self, weights: Arrays) -> Evaluation:  # noqa: ARG002 - the signature of tasks
        raise {
            "surrogate": FileNotFoundError("no file \udcff"),
            "no text": _NoText(),
            "interrupt": KeyboardInterrupt(),
            "exit": SystemExit(3),
            "another": type("Another", (BaseException,), {})("odd"),
        }[self._what]


class Asking(Noise):
    """Reads from the terminal."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        input()
        return super().evaluate(weights)
