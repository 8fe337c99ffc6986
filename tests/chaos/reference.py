"""A reference implementation of the averaging, computed from whole updates in float64.

It shares no code with the averager: files are read by safetensors, and the encodings and strategies are
implemented again after docs/encodings.md and docs/aggregation.md.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import safetensors
from numpy.typing import NDArray

from fedgrass.federation.settings import RunSettings

Floats = NDArray[np.float64]
Model = dict[str, Floats]
BLOCK = 4096  # values of a block of top_k
CARRIED = "control:"  # prefix of an array's name: SCAFFOLD's control variate of it
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "fedavgm": {"server_rate": 1.0, "momentum": 0.9},
    "fedadagrad": {"server_rate": 0.1, "beta_1": 0.0, "tau": 1e-3},
    "fedadam": {"server_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "fedyogi": {"server_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "trimmed_mean": {"cut": 0.2},
    "q_fedavg": {"q": 0.1, "learning_rate": 0.1},
    "krum": {"malicious": 1, "keep": 1},
    "multi_krum": {"malicious": 1},
}


NEAR = 1e-5  # a relative difference of float32 sums that may have either sign


@dataclass(frozen=True)
class Update:
    """One update that was counted."""

    data: bytes
    examples: int
    loss: float  # of the global model, on the device
    start: Model | None = None  # from which the device started; None for the round's base
    age: int = 0  # models made since that one

    @property
    def trained(self) -> set[str] | None:
        """The arrays that the header declares as moved by gradients."""
        size = int.from_bytes(self.data[:8], "little")
        metadata = json.loads(self.data[8 : 8 + size]).get("__metadata__", {})
        return set(json.loads(metadata["trained"])) if "trained" in metadata else None


@dataclass
class Server:
    """The state that the server keeps from round to round."""

    turn: int = 0
    state: dict[str, Model] = field(default_factory=dict)
    uncertain: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """By array: where Yogi's variance has hung on the sign of a difference that rounding decides."""

    def of(self, name: str, like: Model) -> Model:
        """Return a part of the state, zeros at first."""
        return self.state.get(name) or {array: np.zeros_like(values) for array, values in like.items()}


def read_file(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """Return the arrays of a weights file in any encoding, with the shapes of the model's arrays."""
    stored = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call] # it has no types
    found: Model = {}
    for name, array in stored.items():
        if name.endswith(":scale") and name.removesuffix(":scale") in stored:
            continue
        raw, shape = bytes(array["data"]), shapes[name.removeprefix(CARRIED)]
        values: Floats
        match array["dtype"]:
            case "F32":
                values = np.frombuffer(raw, "<f4").astype(np.float64)
            case "F16":
                values = np.frombuffer(raw, "<f2").astype(np.float64)
            case "BF16":
                bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
                values = bits.view(np.float32).astype(np.float64)
            case "I8":
                scale = float(np.frombuffer(bytes(stored[name + ":scale"]["data"]), "<f4")[0])
                values = np.frombuffer(raw, np.int8).astype(np.float64) * scale
            case _:
                values = _of_rows(np.frombuffer(raw, np.uint8).reshape(array["shape"]), math.prod(shape))
        found[name] = values.reshape(shape)
    return found


def _of_rows(rows: NDArray[np.uint8], count: int) -> Floats:
    """Return the values of top_k: each row has the places within its block as uint16, then the values."""
    values, entries = np.zeros(count), rows.shape[1] // 6
    for number, row in enumerate(rows):
        places = np.frombuffer(row[: 2 * entries].tobytes(), "<u2").astype(np.int64) + number * BLOCK
        np.add.at(values, places, np.frombuffer(row[2 * entries :].tobytes(), "<f4"))
    return values


def next_model(  # noqa: PLR0913, PLR0917 - the inputs of a round
    base: Model,
    updates: Sequence[Update],
    settings: RunSettings,
    server: Server,
    asked: int,
    cap: int = 0,
) -> Model:
    """Return the model of a round in which ``asked`` devices were asked; update the server's state.

    ``cap`` is the largest number of examples for which an update counts, if the round's first group set it.
    """
    updates = _capped(updates, settings.examples_cap, cap)
    averaged = _averaged(base, updates)
    shapes = {name: array.shape for name, array in base.items()}
    sent = [read_file(update.data, shapes) for update in updates]
    starts = [update.start or base for update in updates]
    trained = [
        {name: one[name] + start[name] if settings.upload_difference else one[name] for name in base}
        for one, start in zip(sent, starts, strict=True)
    ]
    since = [
        {name: one[name] if settings.upload_difference else one[name] - start[name] for name in base}
        for one, start in zip(sent, starts, strict=True)
    ]
    factors = [_clip_factor(change, settings.clip_norm) for change in since]
    measured = [_times(change, factor) for change, factor in zip(since, factors, strict=True)]
    # What no gradient moves is mixed into the newest model, whatever model the device started from.
    changes = [
        _times(
            {name: one[name] - base[name] if name in averaged else change[name] for name in base},
            factor * _weight_of_age(settings, update.age),
        )
        for one, change, factor, update in zip(trained, since, factors, updates, strict=True)
    ]
    options = {**DEFAULTS.get(settings.aggregation, {}), **settings.aggregation_options}
    numbers = {name: float(value) for name, value in options.items()}
    change, weight = _combined(changes, measured, updates, settings.aggregation, numbers)
    mean = {name: change[name] / weight for name in averaged}
    server.turn += 1
    if settings.aggregation == "scaffold":
        _move_control(server, sent, base, asked, averaged)
    step = _STEPS.get(settings.aggregation)
    if step is not None:
        still = {name: np.zeros_like(base[name]) for name in averaged}
        change = step({**change, **still}, server, numbers)
    return {name: base[name] + (mean[name] if name in averaged else change[name]) for name in base}


def _capped(updates: Sequence[Update], multiple: float, cap: int) -> Sequence[Update]:
    """Return the updates with their examples capped at a multiple of the median claim."""
    claims = sorted(update.examples for update in updates)
    if not multiple:
        return updates
    most = cap or int(multiple * claims[(len(claims) - 1) // 2])
    return [replace(update, examples=min(update.examples, most)) for update in updates]


def _averaged(base: Model, updates: Sequence[Update]) -> set[str]:
    """Return the arrays that half of the updates or more do not declare as moved by gradients.

    The campaign's arrays have no names of statistics: an update without a declaration declares all of them.
    """
    votes = [set(base) if update.trained is None else update.trained for update in updates]
    return {name for name in base if 2 * sum(name in vote for vote in votes) <= len(votes)}


def _clip_factor(change: Model, longest: float | None) -> float:
    norm = math.sqrt(_product(change, change))
    return 1.0 if longest is None or norm <= longest else longest / norm


def _times(change: Model, factor: float) -> Model:
    return {name: values * factor for name, values in change.items()}


def _weight_of_age(settings: RunSettings, age: int) -> float:
    """Return the weight of a stale update after Xie et al. (2019)."""
    if settings.mode != "buffered" or settings.staleness == "constant":
        return 1.0
    if settings.staleness == "polynomial":
        return math.exp(-settings.staleness_exponent * math.log(1 + age))
    if age <= settings.staleness_slack:
        return 1.0
    return 1 / (1 + settings.staleness_exponent * (age - settings.staleness_slack))


def _product(one: Model, other: Model) -> float:
    return float(sum(np.vdot(one[name], other[name]) for name in one))


def _combined(
    changes: Sequence[Model],
    measured: Sequence[Model],
    updates: Sequence[Update],
    name: str,
    options: Mapping[str, float],
) -> tuple[Model, float]:
    """Return the combined change of many updates, and the sum of their weights.

    Strategies that compare updates do so by the ``measured`` changes, before these are weighted by their age.
    """
    if name == "median":
        return _columns(changes, lambda column: np.median(column, axis=0)), 1.0
    if name == "trimmed_mean":
        cut = int(options["cut"] * len(changes))
        kept = slice(cut, len(changes) - cut)
        return _columns(changes, lambda column: np.sort(column, axis=0)[kept].mean(axis=0)), 1.0
    weights = _weights(measured, updates, name, options)
    return _columns(changes, lambda column: np.tensordot(weights, column, axes=1)), float(weights.sum())


def _columns(changes: Sequence[Model], reduce: Callable[[Floats], Floats]) -> Model:
    return {name: reduce(np.stack([change[name] for change in changes])) for name in changes[0]}


def _weights(
    changes: Sequence[Model], updates: Sequence[Update], name: str, options: Mapping[str, float]
) -> Floats:
    examples = np.array([update.examples for update in updates], dtype=np.float64)
    if name in {"mean", "scaffold"}:
        return np.full(len(updates), 1 / len(updates))
    if name == "q_fedavg":
        losses = np.array([update.loss for update in updates]) + 1e-10
        norms = np.array([_product(change, change) for change in changes])
        rate, q = 1 / options["learning_rate"], options["q"]
        curvature = q * losses ** (q - 1) * norms * rate**2 + rate * losses**q
        return np.asarray(losses**q * rate / curvature.sum())
    if name in {"krum", "multi_krum"}:
        neighbours = len(changes) - int(options["malicious"]) - 2
        kept = np.argsort([_score(one, changes, neighbours) for one in changes], kind="stable")
        mask = np.zeros(len(changes))
        mask[kept[: int(options.get("keep", neighbours))]] = 1
        examples *= mask
    return np.asarray(examples / examples.sum())


def _score(one: Model, changes: Sequence[Model], neighbours: int) -> float:
    """Return the sum of the squared distances to the nearest other updates."""
    between = [{name: one[name] - other[name] for name in one} for other in changes if other is not one]
    return sum(sorted(_product(gap, gap) for gap in between)[:neighbours])


def _momentum(change: Model, server: Server, options: Mapping[str, float]) -> Model:
    before = server.of("momentum", change)
    velocity = {name: options["momentum"] * before[name] + change[name] for name in change}
    server.state["momentum"] = velocity
    return {name: options["server_rate"] * values for name, values in velocity.items()}


def _yogi(old: Floats, square: Floats, beta: float) -> Floats:
    return old - (1 - beta) * square * np.sign(old - square)


def _adaptive(remember: Callable[[Floats, Floats, float], Floats], *, corrected: bool = False) -> "Step":
    def step(change: Model, server: Server, options: Mapping[str, float]) -> Model:
        means, variances = server.of("mean", change), server.of("variance", change)
        beta_1, beta_2 = options["beta_1"], options.get("beta_2", 0.0)
        rate = options["server_rate"]
        if corrected:
            rate *= math.sqrt(1 - beta_2**server.turn) / (1 - beta_1**server.turn)
        mean = {name: beta_1 * means[name] + (1 - beta_1) * change[name] for name in change}
        variance = {name: remember(variances[name], change[name] ** 2, beta_2) for name in change}
        if remember is _yogi:
            for name, values in change.items():
                near = np.abs(variances[name] - values**2) <= NEAR * values**2
                server.uncertain[name] = server.uncertain.get(name, False) | (near & (values != 0))
        server.state |= {"mean": mean, "variance": variance}
        return {name: rate * mean[name] / (np.sqrt(variance[name]) + options["tau"]) for name in change}

    return step


def _move_control(
    server: Server, sent: Sequence[Model], base: Model, asked: int, averaged: Collection[str]
) -> None:
    before = server.of("control", base)
    share = min(1.0, len(sent) / asked)
    server.state["control"] = {
        name: before[name]
        if name in averaged
        else before[name] + share * np.mean([one[CARRIED + name] for one in sent], axis=0)
        for name in base
    }


Step = Callable[[Model, Server, Mapping[str, float]], Model]
_STEPS: Mapping[str, Step] = {
    "fedavgm": _momentum,
    "fedadagrad": _adaptive(lambda old, square, _: old + square),
    "fedadam": _adaptive(lambda old, square, beta: beta * old + (1 - beta) * square, corrected=True),
    "fedyogi": _adaptive(_yogi),
}
