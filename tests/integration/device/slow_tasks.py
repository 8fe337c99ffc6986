"""Tasks that misbehave, loaded by the worker by their module's name."""

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
    """Trains until it is stopped; deaf, it does not even look."""

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
    """Says that it is a part if it is asked to stop."""

    def __init__(self) -> None:
        super().__init__(0.01)

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit(fit.weights, fit.examples, partial=stop())


class Bounded(Noise):
    """Tells in its metrics what it may take of the machine."""

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
    """Wants a gigabyte of memory, of numpy's or of torch's."""

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
    """Raises, as user code does, after printing to what it takes for the terminal."""

    def evaluate(self, weights: Arrays) -> Evaluation:  # noqa: ARG002
        sys.stdout.write("looking for the camera\n")
        sys.stdout.flush()
        os.write(1, b"a C library prints too\n")
        cameras: dict[str, Any] = {}
        return Evaluation(1, cameras["front"])


class Dying(Noise):
    """Takes its process with it."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        os.kill(os.getpid(), 9)
        return super().evaluate(weights)


class Exiting(Noise):
    """Ends its process as it likes."""

    def __init__(self, code: int) -> None:
        super().__init__(0.01)
        self._code = code

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:  # noqa: ARG002
        os._exit(self._code)


class Diverging(Noise):
    """Makes values that are not finite."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit({**fit.weights, "bias": np.full_like(weights["bias"], np.nan)}, fit.examples)


class Reshaping(Noise):
    """Gives back another model than it got."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit({**fit.weights, "bias": weights["bias"][:-1]}, fit.examples)


class Forking(Noise):
    """Lets other processes do a part, as torch's data loader with workers does."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(abs, range(4))
        return super().evaluate(weights)


class Leaving(Noise):
    """Dies, and leaves a child behind that writes its own process id first."""

    def __init__(self, note: str) -> None:
        super().__init__(0.01)
        self._note = note

    def evaluate(self, weights: Arrays) -> Evaluation:
        if os.fork() == 0:
            with open(self._note, "w", encoding="ascii") as note:  # noqa: PTH123
                note.write(f"{os.getpid()}\n")
            while True:
                time.sleep(1)
        while not os.path.exists(self._note) or not os.path.getsize(self._note):  # noqa: PTH110, PTH202
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
        return super().evaluate(weights)


class Returning(Noise):
    """Forks a child that comes back as if it were the worker."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        child = os.fork()
        if child == 0:
            sys.exit(3)
        os.waitpid(child, 0)
        return super().evaluate(weights)


class Counting(Noise):
    """Counts in numpy's numbers, or in whatever ``examples`` and ``all_examples`` say."""

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
    """Raises what is hard to tell."""

    def __init__(self, what: str) -> None:
        super().__init__(0.01)
        self._what = what

    def evaluate(self, weights: Arrays) -> Evaluation:  # noqa: ARG002
        raise {
            "surrogate": FileNotFoundError("no file \udcff"),
            "no text": _NoText(),
            "interrupt": KeyboardInterrupt(),
            "exit": SystemExit(3),
            "another": type("Another", (BaseException,), {})("odd"),
        }[self._what]


class Asking(Noise):
    """Asks somebody at the terminal."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        input()
        return super().evaluate(weights)
