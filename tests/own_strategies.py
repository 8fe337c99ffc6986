"""Custom strategies, named in a run's settings as ``tests.own_strategies:<Class>``."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fedgrass.federation.aggregation import Contribution, Strategy, Survey, WholeStrategy
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.errors import AggregationFailed, LostRace, NotYet, UpdateRefused

NOT_A_CLASS = 7


class GeometricShares(Strategy, frozen=True):
    """Weights updates by a power of their examples, and scales the change by a rate."""

    separable: ClassVar[bool] = True

    power: Annotated[float, Meta(ge=0, le=1)] = 0.5
    rate: Annotated[float, Meta(gt=0, le=10)] = 1.0

    def share(self, contribution: Contribution) -> float:
        return float(contribution.examples**self.power)

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
        return model + self.rate * change


class RangeMiddle(Strategy, frozen=True):
    """Takes the middle of the smallest and the largest change of each value; the state sums the changes."""

    reads: ClassVar[Literal["sums", "columns"]] = "columns"
    state: ClassVar[tuple[str, ...]] = ("seen",)

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002 - the strategy's signature
        return np.asarray((changes.min(axis=0) + changes.max(axis=0)) / 2)

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
        state["seen"] += change
        return model + change


class Longest(Strategy, frozen=True):
    """Takes only the longest change."""

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
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - the strategy's signature
        raise SystemExit(3)


class WrongWeights(Strategy, frozen=True):
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - the strategy's signature
        return np.ones(len(contributions) + 1)


class WrongShape(RangeMiddle, frozen=True):
    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002 - the strategy's signature
        return np.zeros(changes.shape)


class NotANumber(RangeMiddle, frozen=True):
    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002 - the strategy's signature
        return np.full(changes.shape[1], np.nan)


class Overflows(Strategy, frozen=True):
    """Returns values that are finite in float64, but not in the model's float32."""

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
        return model + 1e300


class SpoilsItsState(RangeMiddle, frozen=True):
    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
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
            except Exception:  # noqa: BLE001, S112  - as careless code does
                continue


broken: set[str] = set()  # what a test makes fail from a certain moment, like a newly deployed version


class MadeOfNothing(Strategy, frozen=True):
    """Runs code on construction."""

    def __post_init__(self) -> None:
        if "made" in broken:
            message = "no such key"
            raise KeyError(message)
        while "slow" in broken:
            try:
                time.sleep(0.01)
            except Exception:  # noqa: BLE001, S112  - as careless code does
                continue


class RefusesItsOptions(Strategy, frozen=True):
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.rate > 1:
            message = f"a rate of {self.rate} goes too far"
            raise ValueError(message)


class RaisesLostRace(Strategy, frozen=True):
    """Raises an error of fedgrass after which the averager would try again indefinitely."""

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - the strategy's signature
        message = "as if another averager had moved the round"
        raise LostRace(message)


class RaisesNotYet(RangeMiddle, frozen=True):
    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002 - the strategy's signature
        message = "as if another averager held the lease"
        raise NotYet(message)


class RefusesUpdates(Strategy, frozen=True):
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - the strategy's signature
        message = "as if a device had sent nonsense"
        raise UpdateRefused(message)


class GivesUpItself(Strategy, frozen=True):
    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - the strategy's signature
        message = "two are too few"
        raise AggregationFailed(message)


class PopsItsState(RangeMiddle, frozen=True):
    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
        return model + state.pop("seen")


class AddsToItsState(RangeMiddle, frozen=True):
    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
        state["more"] = change
        return model + change


class ShortensItsState(RangeMiddle, frozen=True):
    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
        state["seen"] = state["seen"][1:]
        return model + change


class StateOfWords(RangeMiddle, frozen=True):
    def step(self, model: Floats, change: Floats, state: dict[str, Any], turn: int) -> Floats:  # noqa: ARG002 - the strategy's signature
        state["seen"] = "words"
        return model + change


class HugeShares(GeometricShares, frozen=True):
    def share(self, contribution: Contribution) -> float:  # noqa: ARG002 - the strategy's signature
        return 8e307


class IntegersBeyondFloats(GeometricShares, frozen=True):
    def share(self, contribution: Contribution) -> int:
        return int(contribution.examples) * 10**400


class WritesToTheWeights(RangeMiddle, frozen=True):
    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:
        weights *= 2
        return np.asarray(weights @ changes)


class AsksOfTraining(Strategy, frozen=True):
    """Requires options of the devices' training."""

    temperature: float = 2.0

    def training(self) -> dict[str, Any]:
        if self.temperature > 5:
            message = "too hot"
            raise RuntimeError(message)
        return {"temperature": self.temperature, "epochs": 7}


class AsksTooMuch(Strategy, frozen=True):
    def training(self) -> dict[str, Any]:
        return {"essay": "x" * 4000}


class AsksForNonsense(Strategy, frozen=True):
    def training(self) -> Any:
        return {"rate": np.inf}


class StateIsAWord(RangeMiddle, frozen=True):
    state: ClassVar[Any] = "seen"


class CarriesANumber(RangeMiddle, frozen=True):
    carried: ClassVar[Any] = 1


class TakesTheModelsName(RangeMiddle, frozen=True):
    state: ClassVar[tuple[str, ...]] = ("model",)


class CarriesTwo(Strategy, frozen=True):
    state: ClassVar[tuple[str, ...]] = ("one", "two")
    carried: ClassVar[tuple[str, ...]] = ("one", "two")


class CarriesOne(Strategy, frozen=True):
    state: ClassVar[tuple[str, ...]] = ("one",)
    carried: ClassVar[tuple[str, ...]] = ("one",)


class ReadsRows(Strategy, frozen=True):
    reads: ClassVar[Any] = "rows"


class ReadsWhole(WholeStrategy, frozen=True):
    """Reads whole updates, which is left to built-in strategies."""


class NoStrategy:
    pass


class DoubleWeights(Strategy, frozen=True):
    """Takes twice the mean change."""

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - the strategy's signature
        return np.full(len(contributions), 2.0 / len(contributions))


class NegativeWeights(Strategy, frozen=True):
    """Gives the first update a negative weight."""

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - the strategy's signature
        weights = np.full(len(contributions), 2.0 / (len(contributions) - 1))
        weights[0] = -1.0
        return weights


class BeyondAll(Strategy, frozen=True):
    """Takes three times the largest change of each value."""

    reads: ClassVar[Literal["sums", "columns"]] = "columns"

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002 - the strategy's signature
        farthest = np.take_along_axis(changes, np.abs(changes).argmax(axis=0)[None], axis=0)[0]
        return np.asarray(3 * farthest)
