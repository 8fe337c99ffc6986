"""The strategy of a run, and a guard around it: a custom strategy may raise, return nonsense, or never end.

``load`` finds the strategy that the run's settings name: one of fedgrass, or ``module:Class`` from the
function's package, which is checked first. ``GuardedStrategy`` calls it, limits the time of each call of a
custom strategy, and checks shape, type and finiteness of what it returns.
"""

import importlib
import math
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.aggregation import STRATEGIES, Contribution, Strategy, Survey, strategy
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.aggregation.staleness import why_not_buffered
from fedgrass.federation.errors import AggregationFailed, SettingsError, UpdateRefused
from fedgrass.federation.messages.message_fields import MOST_CARRIED, Options
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.strategy_registry import CUSTOM_STRATEGY

_STATE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = frozenset({"model", "round"})  # names of other drafts of a lease
_LARGEST_SHARES = 2.0**1000  # of one averager, so that the sums of all averagers can be added and scaled


class _TimeIsUp(BaseException):
    """A call took too long. Not an Exception, or a strategy that catches those would never end."""


def load(settings: RunSettings) -> Strategy:
    """Return the strategy that a run's settings name.

    Raises:
        SettingsError: the strategy does not exist (``module:Class``: in the function's package), does not
            accept its options, or cannot be used in the run's mode.
    """
    found = _loaded(settings)
    if settings.mode == "buffered" and (why := why_not_buffered(settings.aggregation, found)):
        raise SettingsError(why)
    return found


def _loaded(settings: RunSettings) -> Strategy:
    name, options = settings.aggregation, settings.aggregation_options
    if built_in := strategy(name, options):
        return built_in
    kind = _custom(name, settings.aggregation_seconds)
    remedy = "fix its __post_init__ and deploy again"
    with _refused(f"the run's aggregation {name!r} cannot be created", remedy, settings.aggregation_seconds):
        return STRATEGIES.configure(name, kind, options)


def training_needs(settings: RunSettings, chosen: Strategy) -> Options:
    """Return what a custom strategy requires of the devices' training; empty for a built-in strategy.

    Raises:
        SettingsError: its ``training`` fails, or returns what does not fit an announcement.
    """
    if not CUSTOM_STRATEGY.fullmatch(settings.aggregation):
        return {}
    try:
        return GuardedStrategy(settings.aggregation, chosen, settings.aggregation_seconds).training()
    except AggregationFailed as error:
        raise SettingsError(str(error)) from error


def _custom(name: str, seconds: float) -> type[Strategy]:
    """Return the class that ``module:Class`` names. Raises SettingsError, also if it cannot be used."""
    module, _, wanted = name.partition(":")
    remedy = f"deploy its module by `fedgrass deploy cloud --strategy {module.partition('.')[0]}.py`"
    with _refused(f"the run's aggregation {name!r} cannot be loaded", remedy, seconds):
        found = getattr(importlib.import_module(module), wanted)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        message = f"the run's aggregation {name!r} is not a fedgrass.federation.aggregation.Strategy"
        raise SettingsError(message)
    for problem in problems_in(found):
        message = f"the run's aggregation {name!r} cannot be used: {problem}"
        raise SettingsError(message)
    return found


@contextmanager
def _refused(what: str, remedy: str, seconds: float) -> Iterator[None]:
    """Raise SettingsError with ``what`` and ``remedy`` if the user's code inside raises or takes too long."""
    try:
        with _time_limit(seconds if _in_main_thread() else None):
            yield
    except SettingsError:
        raise
    except _TimeIsUp as error:
        message = f"{what} (it did not end within {seconds:g} s): {remedy}"
        raise SettingsError(message) from error
    except (Exception, SystemExit) as error:
        message = f"{what} ({type(error).__name__}: {error}): {remedy}"
        raise SettingsError(message) from error


def problems_in(kind: type[Strategy]) -> Iterator[str]:
    """Yield what is wrong with the declarations of a custom strategy."""
    unnamed = [field for field in ("state", "carried") if not _is_names(getattr(kind, field))]
    for field in unnamed:
        yield f"its {field} is {getattr(kind, field)!r}; it must be a tuple of names, such as ('momentum',)"
    if not unnamed:
        yield from _wrong_names_in(kind)
    for field, choices in (("reads", ("sums", "columns")), ("survey", ("", "norms", "products"))):
        if getattr(kind, field) not in choices:
            one_of = ", ".join(map(repr, choices))
            yield f"its {field} is {getattr(kind, field)!r}; it must be one of {one_of}"
    if not isinstance(kind.needs_one_model, str):
        yield f"its needs_one_model is {kind.needs_one_model!r}; it must be a text, the reason"
    for method in ("weigh", "combine"):
        if kind.separable and getattr(kind, method) is not getattr(Strategy, method):
            yield f"its {method} would never be called, since it is separable: set separable = False"


def _is_names(names: object) -> bool:
    return isinstance(names, tuple) and all(isinstance(name, str) for name in names)


def _wrong_names_in(kind: type[Strategy]) -> Iterator[str]:
    for carried in set(kind.carried) - set(kind.state):
        yield f"it carries {carried!r}, which is not in its state"
    if len(kind.carried) > MOST_CARRIED:
        yield f"it carries {', '.join(map(repr, kind.carried))}; an announcement has room for {MOST_CARRIED}"
    for state in kind.state:
        if not _STATE_NAME.fullmatch(state) or state in _TAKEN:
            yield f"its state {state!r} must be a name of a-z, 0-9 and '_', other than model and round"


class GuardedStrategy:
    """Calls a strategy; its mistakes become an ``AggregationFailed`` that names it.

    Args:
        name: as in the run's settings.
        strategy: the strategy.
        seconds: the most that one call of a custom strategy may take.
    """

    def __init__(self, name: str, strategy: Strategy, seconds: float) -> None:
        self.name = name
        self.strategy = strategy
        self.steps = type(strategy).step is not Strategy.step  # otherwise the change is added to the model
        self._seconds = seconds
        self.is_custom = bool(CUSTOM_STRATEGY.fullmatch(name))
        # Built-in strategies end; and only the main thread may set a timer.
        self._timed = self.is_custom and _in_main_thread()

    def unusable(self, contributions: Sequence[Contribution]) -> dict[str, str]:
        """Return the reason for each update that the strategy cannot use, by device; see ``Strategy.check``.

        Raises:
            AggregationFailed: ``check`` raised anything but UpdateRefused, or took too long.
        """
        found: dict[str, str] = {}
        with self._blamed("check"):
            for contribution in contributions:
                try:
                    self.strategy.check(contribution)
                except UpdateRefused as error:
                    found[contribution.device] = str(error)
        return found

    def shares(self, contributions: Sequence[Contribution]) -> tuple[Floats, dict[str, str]]:
        """Return the share of each of N updates; see ``Strategy.share``.

        Returns:
            The shares, float64 array of shape (N,), and the updates whose share cannot be used, with the
            reason, by device.

        Raises:
            AggregationFailed: no share can be used (then the strategy is to blame, not the updates), one
                takes too long, or their sum is too large.
        """
        shares, refused = np.zeros(len(contributions)), dict[str, str]()
        for place, contribution in enumerate(contributions):
            try:
                shares[place] = self._share(contribution)
            except AggregationFailed as error:
                refused[contribution.device] = str(error)
                if len(refused) == len(contributions) or isinstance(error.__cause__, _TimeIsUp):
                    raise
        with np.errstate(over="ignore"):
            total = shares.sum()
        if not refused and total > _LARGEST_SHARES:
            message = (
                f"aggregation {self.name!r}: share returned {shares.min():g} to {shares.max():g};"
                f" all must be above 0, and their sum at most {_LARGEST_SHARES:.0g}"
            )
            raise AggregationFailed(message)
        return shares, refused

    def _share(self, contribution: Contribution) -> float:
        with self._blamed("share"):
            share = float(self.strategy.share(contribution))
        if not (share > 0 and math.isfinite(share)):
            message = f"aggregation {self.name!r}: share returned {share:g}; all must be above 0"
            raise AggregationFailed(message)
        return share

    def training(self) -> Options:
        """Return what the strategy requires of the devices' training; see ``Strategy.training``.

        Raises:
            AggregationFailed: ``training`` failed.
        """
        with self._blamed("training"):
            found = self.strategy.training()
            needs = msgspec.convert(dict(found), Options)
            # Encoded as in an announcement: there a number that is not finite would become null.
            return msgspec.json.decode(msgspec.json.encode(needs), type=Options)

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weights of N changes, read-only float64 array of shape (N,); see ``Strategy.weigh``.

        Raises:
            AggregationFailed: ``weigh`` failed or returned something else.
        """
        with self._blamed("weigh"):
            weights = np.array(self.strategy.weigh(tuple(contributions), survey), dtype=np.float64)
        self._check("weigh", weights, len(contributions))
        weights.setflags(write=False)  # all slices are combined with the same weights
        return weights

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:
        """Return the combined change of a slice; see ``Strategy.combine``.

        Args:
            changes: float32 or float64 array of shape (N, L), which the strategy may overwrite.
            weights: float64 array of shape (N,).

        Returns:
            Float array of shape (L,).

        Raises:
            AggregationFailed: ``combine`` failed or returned something else.
        """
        length = changes.shape[1]
        with self._blamed("combine"):
            combined = np.asarray(self.strategy.combine(changes, weights))
        self._check("combine", combined, length)
        return combined

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:
        """Return the new values of a slice, shape (L,); see ``Strategy.step``.

        Args:
            model: the values before the round, shape (L,).
            change: the combined change, shape (L,).
            state: the server state by name, arrays of shape (L,), updated in place.
            turn: number of training rounds that the run has closed including this one, from 1.

        Raises:
            AggregationFailed: ``step`` failed, or left values or state of another shape or not finite.
        """
        names = list(state)
        with self._blamed("step"):
            values = np.asarray(self.strategy.step(model, change, state, turn))
            state.update({name: np.asarray(array) for name, array in state.items()})
        if list(state) != names:
            message = (
                f"aggregation {self.name!r}: step left the state {list(state)}; it must leave {names},"
                " each updated in place"
            )
            raise AggregationFailed(message)
        self._check("step", values, len(model))
        for name, array in state.items():
            self._check("step", array, len(model), f"left the state {name!r} as")
        return values

    def carry(self, values: Floats, change: Floats, counted: int, asked: int) -> Floats:
        """Return the new values of a slice of auxiliary state, shape (L,); see ``Strategy.carry``.

        Args:
            values: the state before the round, shape (L,).
            change: the combined change that the updates carry, shape (L,).
            counted: number of updates that are combined.
            asked: number of devices that the round asked.

        Raises:
            AggregationFailed: ``carry`` failed or returned something else.
        """
        with self._blamed("carry"):
            carried = np.asarray(self.strategy.carry(values, change, counted, asked))
        self._check("carry", carried, len(values))
        return carried

    def _check(self, method: str, values: NDArray[Any], length: int, did: str = "returned") -> None:
        if values.shape != (length,) or values.dtype.kind != "f":
            message = (
                f"aggregation {self.name!r}: {method} {did} {values.dtype} of shape {values.shape};"
                f" it must be a float array of shape ({length},)"
            )
            raise AggregationFailed(message)
        if not np.isfinite(values).all():
            message = f"aggregation {self.name!r}: {method} {did} values that are not finite"
            raise AggregationFailed(message)

    @contextmanager
    def _blamed(self, method: str) -> Iterator[None]:
        try:
            # An overflow gives values that are not finite, and every result is checked for those.
            with (
                _time_limit(self._seconds if self._timed else None),
                np.errstate(over="ignore", invalid="ignore"),
            ):
                yield
        except AggregationFailed as error:
            if not self.is_custom:  # the message of a built-in strategy needs no prefix
                raise
            message = f"aggregation {self.name!r}: {method}: {error}"
            raise AggregationFailed(message) from error
        except _TimeIsUp as error:
            message = f"aggregation {self.name!r}: {method} did not end within {self._seconds:g} s"
            raise AggregationFailed(message) from error
        except (Exception, SystemExit) as error:
            message = f"aggregation {self.name!r}: {method} raised {type(error).__name__}: {error}"
            raise AggregationFailed(message) from error


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise ``_TimeIsUp`` in the code inside after ``seconds``; None sets no limit. Main thread only."""
    if seconds is None:
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    other = signal.setitimer(signal.ITIMER_REAL, seconds)  # an outer timer, such as a test's
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *other)
        signal.signal(signal.SIGALRM, before)


def _in_main_thread() -> bool:
    """Return whether this thread may set a timer."""
    return threading.current_thread() is threading.main_thread()
