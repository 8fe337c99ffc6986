"""Strategies as a user writes them, named in a run's settings as ``tests.own_strategies:<Class>``."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fedgrass.federation.aggregation import Contribution, Strategy, Survey

Floats = NDArray[np.float64]
NOT_A_CLASS = 7


class GeometricShares(Strategy, frozen=True):
    """Counts the examples by a power of them, and makes steps of a chosen length."""

    separable: ClassVar[bool] = True

    power: Annotated[float, Meta(ge=0, le=1)] = 0.5
    rate: Annotated[float, Meta(gt=0, le=10)] = 1.0

    def share(self, contribution: Contribution) -> float:
        return float(contribution.examples**self.power)

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002
        return model + self.rate * change


class RangeMiddle(Strategy, frozen=True):
    """Takes the middle between the smallest and the largest change of each value, and remembers the mean."""

    reads: ClassVar[Literal["sums", "columns"]] = "columns"
    state: ClassVar[tuple[str, ...]] = ("seen",)

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002
        return np.asarray((changes.min(axis=0) + changes.max(axis=0)) / 2)

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002
        state["seen"] += change
        return model + change


class Longest(Strategy, frozen=True):
    """Takes the longest change alone."""

    survey: ClassVar[Literal["", "norms", "products"]] = "norms"

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        assert survey is not None
        weights = np.zeros(len(contributions))
        weights[np.argmax(survey.squared_norms)] = 1.0
        return weights


class Needs(Strategy, frozen=True):
    """Has an option without a default."""

    needed: int


class Raises(Strategy, frozen=True):
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        message = f"no idea about {len(contributions)} updates, {survey}"
        raise RuntimeError(message)


class Exits(Strategy, frozen=True):
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002
        raise SystemExit(3)


class WrongWeights(Strategy, frozen=True):
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002
        return np.ones(len(contributions) + 1)


class WrongShape(RangeMiddle, frozen=True):
    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002
        return np.zeros(changes.shape)


class NotANumber(RangeMiddle, frozen=True):
    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002
        return np.full(changes.shape[1], np.nan)


class Overflows(Strategy, frozen=True):
    """Is finite in float64, and not in the model's float32."""

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002
        return model + 1e300


class SpoilsItsState(RangeMiddle, frozen=True):
    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002
        state["seen"][:] = np.inf
        return model


class NoShare(GeometricShares, frozen=True):
    def share(self, contribution: Contribution) -> float:
        return float(contribution.examples * 0)


class NeverEnds(Strategy, frozen=True):
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        while True:
            try:
                contributions = list(contributions) if survey is None else contributions[:]
            except Exception:  # noqa: BLE001, S112  # as careless code does
                continue


class TakesTheModelsName(RangeMiddle, frozen=True):
    state: ClassVar[tuple[str, ...]] = ("model",)


class CarriesTwo(Strategy, frozen=True):
    state: ClassVar[tuple[str, ...]] = ("one", "two")
    carried: ClassVar[tuple[str, ...]] = ("one", "two")


class ReadsRows(Strategy, frozen=True):
    reads: ClassVar[Any] = "rows"


class NoStrategy:
    pass
