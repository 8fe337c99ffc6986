"""SCAFFOLD: both halves together find the optimum that the weighted mean drifts away from."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.scaffold import control_after, control_change, correction
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import encode
from tests.fakes.small_average import SmallAverage
from tests.fakes.small_fleet import RUN, SmallFleet

Arrays = dict[str, NDArray[Any]]
STEPS, RATE, DEVICES = 10, 0.1, 4
# Device i minimizes the sum over values of 0.5 * STEEP[i] * (x - BEST[i])^2; all together, OPTIMUM.
STEEP = np.array([0.2, 1.0, 2.0, 4.0])
BEST = np.array([[3.0, -1.0, 0.5], [-2.0, 4.0, 1.0], [0.0, 2.0, -3.0], [1.0, -2.0, 2.0]])
OPTIMUM = (STEEP[:, None] * BEST).sum(axis=0) / STEEP.sum()


def start() -> Arrays:
    return {"w": np.zeros(3, np.float32), "deep": np.zeros((3, 1)), "batches": np.array(0)}


class Device:
    """Trains by plain gradient steps, like a task, with SCAFFOLD's correction in each."""

    def __init__(self, number: int) -> None:
        self._steep, self._best = STEEP[number], BEST[number]
        self.control: Arrays = {}

    def train(self, model: Arrays, server: Arrays, *, corrected: bool) -> Arrays:
        begun: Arrays = {name: model[name].astype(np.float32) for name in ("w", "deep")}
        added = correction(server, self.control)
        trained = dict(begun)
        for _ in range(STEPS):
            for name, values in trained.items():
                gradient = self._steep * (values - self._best.reshape(values.shape).astype(np.float32))
                step = gradient + added.get(name, 0) if corrected else gradient
                trained[name] = (values - RATE * step).astype(np.float32)
        update: Arrays = {"w": trained["w"], "deep": trained["deep"].astype(np.float64)}
        update["batches"] = model["batches"] + STEPS
        if corrected:
            change = control_change(begun, trained, server, STEPS, RATE)
            self.control = control_after(self.control, change)
            update |= {f"control:{name}": values for name, values in change.items()}
        return update


def controls(run: SmallAverage) -> Arrays:
    if not run.number:
        return {}
    return {name.removeprefix("control:"): values for name, values in run.state("control").items()}


def trained(run: SmallAverage, rounds: int, asked: int = DEVICES, *, corrected: bool) -> SmallAverage:
    devices, rng = [Device(number) for number in range(DEVICES)], np.random.default_rng(4)
    for _ in range(rounds):
        chosen = rng.permutation(DEVICES)[:asked]
        model, server = run.model, controls(run) if corrected else {}
        run.round([devices[number].train(model, server, corrected=corrected) for number in chosen])
    return run


def distance(run: SmallAverage) -> float:
    return float(np.abs(run.model["w"] - OPTIMUM).max())


def reference(rounds: int) -> NDArray[np.float64]:
    """Return the model after algorithm 1 of the paper, option II, with all devices, written out plainly."""
    x, c, own = np.zeros(3), np.zeros(3), np.zeros((DEVICES, 3))
    for _ in range(rounds):
        models, after = np.zeros((DEVICES, 3)), np.zeros((DEVICES, 3))
        for i in range(DEVICES):
            y = x.copy()
            for _ in range(STEPS):
                y -= RATE * (STEEP[i] * (y - BEST[i]) - own[i] + c)
            models[i], after[i] = y, own[i] - c + (x - y) / (STEPS * RATE)
        x, c, own = x + (models - x).mean(axis=0), c + (after - own).mean(axis=0), after
    return x


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_the_models_are_those_of_the_papers_algorithm(rounds: int, *, difference: bool) -> None:
    encoding = Encoding(difference=difference)
    made = trained(SmallAverage(start(), aggregation="scaffold", encoding=encoding), rounds, corrected=True)
    np.testing.assert_allclose(made.model["w"], reference(rounds), atol=5e-6)
    np.testing.assert_allclose(made.model["deep"][:, 0], reference(rounds), atol=5e-6)
    assert made.model["batches"].tolist() == rounds * STEPS


@pytest.mark.slow
def test_it_reaches_the_optimum_from_which_the_mean_drifts_away() -> None:
    drifted = trained(SmallAverage(start(), aggregation="mean"), 60, corrected=False)
    found = trained(SmallAverage(start(), aggregation="scaffold"), 60, corrected=True)
    assert distance(drifted) > 0.3
    assert distance(found) < 1e-3


@pytest.mark.slow
def test_it_reaches_the_optimum_when_rounds_ask_half_of_the_population() -> None:
    settings: dict[str, Any] = {"aggregation": "scaffold", "aggregation_options": {"population": DEVICES}}
    assert distance(trained(SmallAverage(start(), **settings), 150, asked=2, corrected=True)) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_it_comes_near_with_updates_and_controls_that_are_encoded(kind: Any) -> None:
    encoding = Encoding(kind=kind, difference=True)
    found = trained(SmallAverage(start(), aggregation="scaffold", encoding=encoding), 60, corrected=True)
    assert distance(found) < 0.05


def test_the_servers_control_follows_by_the_share_of_the_population_that_replied() -> None:
    run = SmallAverage(start(), aggregation="scaffold", aggregation_options={"population": 8})
    change = {"control:w": np.full(3, 4.0, np.float32), "control:deep": np.zeros((3, 1), np.float32)}
    run.round([{**start(), **change}, start()])
    assert run.state("control")["control:w"].tolist() == [2 / 8 * (4 + 0) / 2] * 3
    assert run.state("control").keys() == change.keys()


def test_an_update_without_controls_is_refused_by_the_name_of_what_is_missing() -> None:
    fleet = SmallFleet(devices=1, aggregation="scaffold", on_abandoned="fail")
    fleet.start()
    fleet.reply("thing-0")
    (told,) = fleet.told_of("thing-0")
    assert told.startswith("update refused: array 'control:bias' is missing")
    assert object_keys.model(RUN, 1) not in fleet.bucket.objects


def test_a_model_that_has_arrays_of_such_names_itself_is_not_started() -> None:
    fleet = SmallFleet(devices=1, aggregation="scaffold")
    arrays = {"w": np.zeros(3, np.float32), "control:w": np.zeros(3, np.float32)}
    fleet.bucket.write(object_keys.model(RUN, 0), encode(arrays))
    with pytest.raises(SettingsError, match="the model has an array 'control:w'"):
        fleet.start()


def test_a_control_that_is_not_finite_is_refused_by_name() -> None:
    fleet = SmallFleet(devices=2, aggregation="scaffold")
    fleet.start()
    opened = fleet.newest()
    run = SmallAverage(fleet.model(0), aggregation="scaffold")
    for device, value in zip(fleet.names, (1.0, np.nan), strict=True):
        carried = {"control:bias": np.full(3, value, np.float32)}
        full = {**run._carried(), **carried}
        data = run.unchecked({**fleet.model(0)}, full)
        fleet.say(device, Kind.COMPLETE, fleet.completion(opened, fleet.upload(device, opened, data)))
    (told,) = fleet.told_of("thing-1")
    assert told.startswith("update refused: array 'control:bias' has values that are not finite")
    assert fleet.rounds.round(RUN, 1, 1) != opened


def test_no_steps_give_no_control() -> None:
    with pytest.raises(ValueError, match=r"0 steps times the learning rate 0\.1"):
        control_change({}, {}, {}, 0, 0.1)
