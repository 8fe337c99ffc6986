"""Distributions of a condition over the devices of a fleet, drawn by their inverse distribution functions.

Each device has one uniform number per condition. Therefore a device is the same in fleets of any size, and a
change of one condition leaves the draws of the others as they are.
"""

import hashlib
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedgrass.simulation.fleets.condition_units import ValueKind

Uniforms = NDArray[np.float64]  # in (0, 1), one per device
Draws = NDArray[Any]  # one value per device: float64, or objects for attributes
Streams = Callable[[str], Uniforms]  # takes the name of what is drawn

_LEAST, _GREATEST = 2.0**-54, 1 - 2.0**-53


def uniform_streams(seed: int, devices: int) -> Streams:
    """Return the function that gives the uniform numbers of each device for a named purpose.

    The first numbers of a stream do not depend on how many are taken.
    """

    def stream(name: str) -> Uniforms:
        key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16])
        # Raw numbers, which numpy keeps the same over its versions, unlike those of Generator.
        raw = np.random.Philox(key=key).random_raw(devices)
        found: Uniforms = np.clip((raw >> np.uint64(11)) * 2.0**-53, _LEAST, _GREATEST)
        return found

    return stream


class Distribution(Protocol):
    """A distribution of the values of one condition."""

    def draw(self, streams: Streams, name: str, kind: ValueKind) -> Draws:
        """Return a value for each device.

        Args:
            streams: gives the uniform numbers.
            name: of the stream; mixtures use streams with longer names as well.
            kind: limits of the values.
        """


class Constant(Struct, frozen=True):
    """The same value for all devices."""

    value: float | str | bool

    def draw(self, streams: Streams, name: str, kind: ValueKind) -> Draws:
        """See ``Distribution``."""
        return np.full(len(streams(name)), self.value, dtype=object if kind.words else np.float64)


class _Continuous(Struct, frozen=True):
    """A distribution with an inverse distribution function."""

    def draw(self, streams: Streams, name: str, kind: ValueKind) -> Draws:
        """See ``Distribution``."""
        with np.errstate(over="ignore"):
            found = self._values(streams(name), kind)
        if kind.cyclic:
            return found % kind.high
        found = np.clip(found, kind.low, kind.high)
        return np.round(found) if kind.whole else found

    def _values(self, uniforms: Uniforms, kind: ValueKind) -> Uniforms:
        raise NotImplementedError


class Uniform(_Continuous, frozen=True):
    """Between two values."""

    low: float
    high: float

    def _values(self, uniforms: Uniforms, kind: ValueKind) -> Uniforms:  # noqa: ARG002
        return self.low + (self.high - self.low) * uniforms


class Normal(_Continuous, frozen=True):
    """Normal, truncated at the limits of the values (at 0), except for hours of the day."""

    mean: float
    deviation: float

    def _values(self, uniforms: Uniforms, kind: ValueKind) -> Uniforms:
        if not self.deviation:
            return np.full(len(uniforms), self.mean)
        normal = NormalDist(self.mean, self.deviation)
        first, last = (0.0, 1.0) if kind.cyclic else (normal.cdf(kind.low), normal.cdf(kind.high))
        within = np.clip(first + (last - first) * uniforms, _LEAST, _GREATEST)
        return np.array([normal.inv_cdf(share) for share in within.tolist()])


class Lognormal(_Continuous, frozen=True):
    """The logarithm is normal; ``sigma`` is the standard deviation of the natural logarithm."""

    median: float
    sigma: float

    def _values(self, uniforms: Uniforms, kind: ValueKind) -> Uniforms:  # noqa: ARG002
        inverse = NormalDist().inv_cdf
        exponents = np.array([inverse(share) for share in uniforms.tolist()]) * self.sigma
        return self.median * np.exp(exponents)


class Exponential(_Continuous, frozen=True):
    """Exponential, by its mean."""

    mean: float

    def _values(self, uniforms: Uniforms, kind: ValueKind) -> Uniforms:  # noqa: ARG002
        return -self.mean * np.log1p(-uniforms)


class Pareto(_Continuous, frozen=True):
    """Pareto: the share of values above x is (smallest / x) ** alpha."""

    smallest: float
    alpha: float

    def _values(self, uniforms: Uniforms, kind: ValueKind) -> Uniforms:  # noqa: ARG002
        return self.smallest * (1 - uniforms) ** (-1 / self.alpha)


class Quantiles(_Continuous, frozen=True):
    """An observed distribution: its quantiles at equal steps, linear in between."""

    values: tuple[float, ...]

    def _values(self, uniforms: Uniforms, kind: ValueKind) -> Uniforms:  # noqa: ARG002
        return np.interp(uniforms, np.linspace(0, 1, len(self.values)), self.values)


class Mixture(Struct, frozen=True):
    """One of several distributions for each device.

    Attributes:
        parts: the distributions.
        weights: the share of devices of each, relative to the sum.
    """

    parts: tuple[Distribution, ...]
    weights: tuple[float, ...]

    def draw(self, streams: Streams, name: str, kind: ValueKind) -> Draws:
        """See ``Distribution``."""
        chosen = choose(streams(name), self.weights)
        found = np.empty(len(chosen), dtype=object if kind.words else np.float64)
        for number, part in enumerate(self.parts):
            of_part = chosen == number
            found[of_part] = part.draw(streams, f"{name}/{number}", kind)[of_part]
        return found


def choose(uniforms: Uniforms, weights: Sequence[float]) -> NDArray[np.intp]:
    """Return for each device the index of a weight, with a probability in proportion to it."""
    ends = np.cumsum(weights)
    return np.minimum(np.searchsorted(ends / ends[-1], uniforms, side="right"), len(weights) - 1)
