"""A run's aggregation strategy, and the guard around one: a user's own may raise, or never end."""

import importlib
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.aggregation import OWN, Contribution, Strategy, Survey, configured, strategy
from fedgrass.federation.errors import AggregationFailed, FedgrassError, SettingsError
from fedgrass.federation.messages import MOST_CARRIED
from fedgrass.federation.settings import RunSettings

Floats = NDArray[np.float64]
_STATE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = frozenset({"model", "round"})  # among the drafts of a lease, where states lie too


class _TimeIsUp(BaseException):
    """Not an Exception: a strategy that catches those would go on for ever."""


def load(settings: RunSettings) -> Strategy:
    """Return the strategy that a run's settings name.

    Raises:
        SettingsError: it is ``module:Class`` of the user's, and there is no such strategy in the function's
            package; or it does not take its options.
    """
    name, options = settings.aggregation, settings.aggregation_options
    built_in = strategy(name, options)
    return built_in or configured(name, _own(name, settings.aggregation_seconds), options)


def _own(name: str, seconds: float) -> type[Strategy]:
    module, _, wanted = name.partition(":")
    try:
        with _time_limit(seconds if _in_main_thread() else None):
            found = getattr(importlib.import_module(module), wanted)
    except (Exception, SystemExit, _TimeIsUp) as error:
        message = (
            f"the run's aggregation {name!r} cannot be loaded ({type(error).__name__}: {error}): put the"
            " module into cloud_functions/ and deploy again"
        )
        raise SettingsError(message) from error
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        message = f"the run's aggregation {name!r} is no fedgrass.federation.aggregation.Strategy"
        raise SettingsError(message)
    for problem in _wrong_in(found):
        message = f"the run's aggregation {name!r} cannot be used: {problem}"
        raise SettingsError(message)
    return found


def _wrong_in(kind: type[Strategy]) -> Iterator[str]:
    """Yield what the averager could not work with."""
    for field, choices in (("reads", ("sums", "columns")), ("survey", ("", "norms", "products"))):
        if getattr(kind, field) not in choices:
            yield f"its {field} is {getattr(kind, field)!r}; it may be one of {', '.join(map(repr, choices))}"
    for method in ("weigh", "combine"):
        if kind.separable and getattr(kind, method) is not getattr(Strategy, method):
            yield f"its {method} would not be asked, since it is separable: set separable = False"
    for carried in set(kind.carried) - set(kind.state):
        yield f"it carries {carried!r}, which is not among its state"
    if len(kind.carried) > MOST_CARRIED:
        yield f"it carries {', '.join(map(repr, kind.carried))}; {MOST_CARRIED} fits an announcement"
    for state in kind.state:
        if not _STATE_NAME.fullmatch(state) or state in _TAKEN:
            yield f"its state {state!r} is no name of small letters, digits and '_', or is model or round"


class Guarded:
    """A strategy whose mistakes become an ``AggregationFailed`` that names it.

    Args:
        name: as in the run's settings.
        strategy: the strategy itself.
        seconds: that one call of it may take.
    """

    def __init__(self, name: str, strategy: Strategy, seconds: float) -> None:
        self.name = name
        self.strategy = strategy
        self.steps = type(strategy).step is not Strategy.step  # otherwise the model is changed, no more
        self._seconds = seconds
        # What is built in ends: no timer is set, which only the main thread may do.
        self._timed = bool(OWN.fullmatch(name)) and _in_main_thread()

    def shares(self, contributions: Sequence[Contribution]) -> Floats:
        """Return what each update counts, shape (N,); see ``Strategy``."""
        with self._blamed("share"):
            shares = np.array([float(self.strategy.share(one)) for one in contributions])
        self._check("share", shares, len(contributions))
        if not ((shares > 0).all() and np.isfinite(shares.sum())):
            message = (
                f"aggregation {self.name!r}: share returned {shares.min():g} to {shares.max():g};"
                " all must be above 0, and their sum finite"
            )
            raise AggregationFailed(message)
        return shares

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weights, shape (N,); see ``Strategy``."""
        with self._blamed("weigh"):
            weights = np.asarray(self.strategy.weigh(contributions, survey), dtype=np.float64)
        self._check("weigh", weights, len(contributions))
        return weights

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:
        """Return one change, shape (L,); see ``Strategy``."""
        length = changes.shape[1]
        with self._blamed("combine"):
            combined = np.asarray(self.strategy.combine(changes, weights))
        self._check("combine", combined, length)
        return combined

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:
        """Return the new values, shape (L,); see ``Strategy``."""
        with self._blamed("step"):
            values = np.asarray(self.strategy.step(model, change, state, turn))
        self._check("step", values, len(model))
        for kept in state.values():
            self._check("step", kept, len(model))
        return values

    def carry(self, values: Floats, change: Floats, counted: int, asked: int) -> Floats:
        """Return the new values of what is carried, shape (L,); see ``Strategy``."""
        with self._blamed("carry"):
            carried = np.asarray(self.strategy.carry(values, change, counted, asked))
        self._check("carry", carried, len(values))
        return carried

    def _check(self, method: str, values: NDArray[Any], length: int) -> None:
        if values.shape != (length,) or values.dtype.kind != "f":
            message = (
                f"aggregation {self.name!r}: {method} returned {values.dtype} of shape {values.shape};"
                f" it must return floats of shape ({length},)"
            )
            raise AggregationFailed(message)
        if not np.isfinite(values).all():
            message = f"aggregation {self.name!r}: {method} returned values that are not finite"
            raise AggregationFailed(message)

    @contextmanager
    def _blamed(self, method: str) -> Iterator[None]:
        try:
            with _time_limit(self._seconds if self._timed else None):
                yield
        except FedgrassError:
            raise
        except _TimeIsUp as error:
            message = f"aggregation {self.name!r}: {method} did not end within {self._seconds:g} s"
            raise AggregationFailed(message) from error
        except (Exception, SystemExit) as error:
            message = f"aggregation {self.name!r}: {method} raised {type(error).__name__}: {error}"
            raise AggregationFailed(message) from error


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise ``_TimeIsUp`` in what runs inside once it has run for so long; only in the main thread."""
    if seconds is None:
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    other = signal.setitimer(signal.ITIMER_REAL, seconds)  # somebody else's timer, such as a test's
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *other)
        signal.signal(signal.SIGALRM, before)


def _in_main_thread() -> bool:
    """Return whether this thread may set a timer."""
    return threading.current_thread() is threading.main_thread()
