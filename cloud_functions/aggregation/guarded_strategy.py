"""A run's aggregation strategy, and the guard around one: a user's own may raise, or never end."""

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
from fedgrass.federation.errors import AggregationFailed, SettingsError, UpdateRefused
from fedgrass.federation.messages.message_fields import MOST_CARRIED, Options
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.strategy_registry import CUSTOM_STRATEGY

Floats = NDArray[np.float64]
_STATE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = frozenset({"model", "round"})  # among the drafts of a lease, where states lie too
_LARGEST_SHARES = 2.0**1000  # of one averager: the sums of all of them can still be added, and scaled


class _TimeIsUp(BaseException):
    """Not an Exception: a strategy that catches those would go on for ever."""


def load(settings: RunSettings) -> Strategy:
    """Return the strategy that a run's settings name.

    Raises:
        SettingsError: it is ``module:Class`` of the user's, and there is no such strategy in the function's
            package; or it does not take its options.
    """
    name, options = settings.aggregation, settings.aggregation_options
    if built_in := strategy(name, options):
        return built_in
    kind = _own(name, settings.aggregation_seconds)
    way_out = "mend its __post_init__ and deploy again"
    with _refused(f"the run's aggregation {name!r} cannot be made", way_out, settings.aggregation_seconds):
        return STRATEGIES.configure(name, kind, options)


def needs_of(settings: RunSettings, chosen: Strategy) -> Options:
    """Return what one's own strategy asks of the devices' training; of one built in the settings know it.

    Raises:
        SettingsError: its ``training`` fails, or returns what no announcement can carry.
    """
    if not CUSTOM_STRATEGY.fullmatch(settings.aggregation):
        return {}
    try:
        return Guarded(settings.aggregation, chosen, settings.aggregation_seconds).training()
    except AggregationFailed as error:
        raise SettingsError(str(error)) from error


def _own(name: str, seconds: float) -> type[Strategy]:
    module, _, wanted = name.partition(":")
    way_out = "put the module into cloud_functions/ and deploy again"
    with _refused(f"the run's aggregation {name!r} cannot be loaded", way_out, seconds):
        found = getattr(importlib.import_module(module), wanted)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        message = f"the run's aggregation {name!r} is no fedgrass.federation.aggregation.Strategy"
        raise SettingsError(message)
    for problem in _wrong_in(found):
        message = f"the run's aggregation {name!r} cannot be used: {problem}"
        raise SettingsError(message)
    return found


@contextmanager
def _refused(what: str, way_out: str, seconds: float) -> Iterator[None]:
    """Refuse by ``what`` whatever the user's code does that runs inside; SettingsError says it itself."""
    try:
        with _time_limit(seconds if _in_main_thread() else None):
            yield
    except SettingsError:
        raise
    except _TimeIsUp as error:
        message = f"{what} (it did not end within {seconds:g} s): {way_out}"
        raise SettingsError(message) from error
    except (Exception, SystemExit) as error:
        message = f"{what} ({type(error).__name__}: {error}): {way_out}"
        raise SettingsError(message) from error


def _wrong_in(kind: type[Strategy]) -> Iterator[str]:
    """Yield what the averager could not work with."""
    unnamed = [field for field in ("state", "carried") if not _is_names(getattr(kind, field))]
    for field in unnamed:
        yield f"its {field} is {getattr(kind, field)!r}; it is a tuple of names, as ('momentum',)"
    if not unnamed:
        yield from _wrong_names_in(kind)
    for field, choices in (("reads", ("sums", "columns")), ("survey", ("", "norms", "products"))):
        if getattr(kind, field) not in choices:
            yield f"its {field} is {getattr(kind, field)!r}; it may be one of {', '.join(map(repr, choices))}"
    for method in ("weigh", "combine"):
        if kind.separable and getattr(kind, method) is not getattr(Strategy, method):
            yield f"its {method} would not be asked, since it is separable: set separable = False"


def _is_names(names: object) -> bool:
    return isinstance(names, tuple) and all(isinstance(name, str) for name in names)


def _wrong_names_in(kind: type[Strategy]) -> Iterator[str]:
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
        self.is_own = bool(CUSTOM_STRATEGY.fullmatch(name))
        # What is built in ends: no timer is set, which only the main thread may do.
        self._timed = self.is_own and _in_main_thread()

    def unusable(self, contributions: Sequence[Contribution]) -> dict[int, str]:
        """Return the places of updates that the strategy cannot use, and why; see ``Strategy.check``."""
        found: dict[int, str] = {}
        with self._blamed("check"):
            for place, contribution in enumerate(contributions):
                try:
                    self.strategy.check(contribution)
                except UpdateRefused as error:
                    found[place] = str(error)
        return found

    def shares(self, contributions: Sequence[Contribution]) -> tuple[Floats, dict[int, str]]:
        """Return what each update counts, shape (N,), and the places of those whose share cannot be used.

        If none can be used, the strategy is to blame and not the updates.

        Raises:
            AggregationFailed: no share can be used, one takes too long, or all together are too large.
        """
        shares, refused = np.zeros(len(contributions)), dict[int, str]()
        for place, contribution in enumerate(contributions):
            try:
                shares[place] = self._share(contribution)
            except AggregationFailed as error:
                refused[place] = str(error)
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
        """Return what the devices' training needs; see ``Strategy``."""
        with self._blamed("training"):
            found = self.strategy.training()
            needs = msgspec.convert(dict(found), Options)
            # As an announcement carries it: a number that is not finite would come back as null.
            return msgspec.json.decode(msgspec.json.encode(needs), type=Options)

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weights, shape (N,); see ``Strategy``."""
        with self._blamed("weigh"):
            weights = np.array(self.strategy.weigh(tuple(contributions), survey), dtype=np.float64)
        self._check("weigh", weights, len(contributions))
        weights.setflags(write=False)  # every slice is combined with the same
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
        names = list(state)
        with self._blamed("step"):
            values = np.asarray(self.strategy.step(model, change, state, turn))
            state.update({name: np.asarray(kept) for name, kept in state.items()})
        if list(state) != names:
            message = (
                f"aggregation {self.name!r}: step left the state {list(state)}; it must leave {names},"
                " each written to in place"
            )
            raise AggregationFailed(message)
        self._check("step", values, len(model))
        for kept_name, kept in state.items():
            self._check("step", kept, len(model), f"left the state {kept_name!r} as")
        return values

    def carry(self, values: Floats, change: Floats, counted: int, asked: int) -> Floats:
        """Return the new values of what is carried, shape (L,); see ``Strategy``."""
        with self._blamed("carry"):
            carried = np.asarray(self.strategy.carry(values, change, counted, asked))
        self._check("carry", carried, len(values))
        return carried

    def _check(self, method: str, values: NDArray[Any], length: int, did: str = "returned") -> None:
        if values.shape != (length,) or values.dtype.kind != "f":
            message = (
                f"aggregation {self.name!r}: {method} {did} {values.dtype} of shape {values.shape};"
                f" they must be floats of shape ({length},)"
            )
            raise AggregationFailed(message)
        if not np.isfinite(values).all():
            message = f"aggregation {self.name!r}: {method} {did} values that are not finite"
            raise AggregationFailed(message)

    @contextmanager
    def _blamed(self, method: str) -> Iterator[None]:
        try:
            # What overflows is not finite: that is looked for in all that a strategy returns.
            with (
                _time_limit(self._seconds if self._timed else None),
                np.errstate(over="ignore", invalid="ignore"),
            ):
                yield
        except AggregationFailed as error:
            if not self.is_own:  # those that are built in say what is wrong in their own words
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
