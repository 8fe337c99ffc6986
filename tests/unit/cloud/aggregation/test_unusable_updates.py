"""An update whose values or metrics a strategy cannot use is refused by name; the run continues."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_functions.aggregation.update_reader import BadUpdates
from fedgrass.federation.aggregation import Contribution, Strategy
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.errors import AggregationFailed
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.topics import Kind
from tests.fakes.small_average import AVERAGING, RUN, SmallAverage
from tests.fakes.small_fleet import SmallFleet, update_full_of

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them

Arrays = dict[str, NDArray[Any]]
DEVICES, BAD = 5, 3
LOSSES: list[dict[str, float]] = [{"loss": 0.5}] * DEVICES
STATEFUL = ("fedadagrad", "fedadam", "fedavgm", "fedyogi", "scaffold")


def start() -> Arrays:
    return {
        "w": np.random.default_rng(1).standard_normal(40, dtype=np.float32),
        "half": np.zeros(10, np.float16),
        "wide": np.zeros(10),
        "count": np.array(3),
    }


def honest(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        name: (array + rng.normal(0, 0.01, array.shape)).astype(array.dtype)
        for name, array in start().items()
    }


def with_value(value: float, name: str = "w") -> Arrays:
    """Return an update with one value that no training would produce."""
    update = honest(BAD)
    with np.errstate(over="ignore"):
        update[name] = update[name].copy()
        update[name][7] = value
    return update


def survivors(
    run: SmallAverage, updates: Sequence[Arrays], **replies: Any
) -> tuple[list[int], dict[str, str]]:
    """Average, and again without refused updates as the averager does; return the places and the refusals.

    Raises AggregationFailed where the strategy gives up.
    """
    places, refused = list(range(len(updates))), dict[str, str]()
    while True:
        files = [run.unchecked(updates[place]) for place in places]
        run.upload(files)
        try:
            run.make(len(places), metrics=[replies["metrics"][place] for place in places])
        except BadUpdates as bad:
            gone = {int(device.removeprefix("thing-")): text for device, text in bad.refused.items()}
            refused |= {str(places[number]): text for number, text in gone.items()}
            places = [place for number, place in enumerate(places) if number not in gone]
            continue
        return places, refused


VALUES = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30, 1e20, 1e-40, -0.0]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", AVERAGING)
def test_no_value_of_one_update_ends_a_round(name: str, value: float) -> None:
    updates = [honest(seed) for seed in range(DEVICES)]
    updates[BAD] = with_value(value)
    run = SmallAverage(start(), aggregation=name)
    averaged, refused = survivors(run, updates, metrics=LOSSES)
    assert refused.keys() <= {str(BAD)}
    assert all(np.isfinite(array).all() for array in run.model.values())
    assert len(averaged) >= DEVICES - 1


@pytest.mark.parametrize("name", ["wide", "half"])
@pytest.mark.parametrize("aggregation", AVERAGING)
def test_no_value_of_another_type_ends_a_round(aggregation: str, name: str) -> None:
    value = 1e300 if name == "wide" else 65504.0
    updates = [honest(seed) for seed in range(DEVICES)]
    updates[BAD] = with_value(value, name)
    run = SmallAverage(start(), aggregation=aggregation)
    for _ in range(3):  # a momentum adds up
        _, refused = survivors(run, updates, metrics=LOSSES)
        assert refused.keys() <= {str(BAD)}
    assert all(np.isfinite(array).all() for array in run.model.values())


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_an_update_whose_square_overflows_is_refused_naming_the_array(name: str) -> None:
    updates = [honest(seed) for seed in range(DEVICES)]
    updates[BAD] = with_value(1e30)
    _, refused = survivors(SmallAverage(start(), aggregation=name), updates, metrics=LOSSES)
    assert refused == {str(BAD): "its change of array 'w' goes up to 1e+30"}


def test_several_such_updates_are_all_refused_also_as_differences() -> None:
    run = SmallAverage(start(), aggregation="fedadam", encoding=Encoding(difference=True))
    changes = [{name: np.zeros_like(array) for name, array in start().items()} for _ in range(DEVICES)]
    for place, value in ((1, 1e30), (3, -2e31)):
        changes[place]["w"] = changes[place]["w"] + np.float32(value)
    _, refused = survivors(run, changes, metrics=LOSSES)
    assert refused == {
        "1": "its change of array 'w' goes up to 1e+30",
        "3": "its change of array 'w' goes up to 2e+31",
    }


METRICS: list[dict[str, float]] = [
    {},
    {"accuracy": 0.5},
    {"loss": -1.0},
    {"loss": 1e300},
    {"loss": 0.0},
    {"loss": 1e-300},
]


@pytest.mark.parametrize("metrics", METRICS, ids=str)
@pytest.mark.parametrize("name", AVERAGING)
def test_no_metric_of_one_device_ends_a_round(name: str, metrics: dict[str, float]) -> None:
    updates = [honest(seed) for seed in range(DEVICES)]
    reported = [*LOSSES[:BAD], metrics, *LOSSES[BAD + 1 :]]
    _, refused = survivors(SmallAverage(start(), aggregation=name), updates, metrics=reported)
    unusable = name == "q_fedavg" and not 0 <= metrics.get("loss", -1) < 1e100
    assert refused.keys() == ({str(BAD)} if unusable else set())
    if unusable:
        assert f"thing-{BAD:04} reported {metrics.get('loss')}" in refused[str(BAD)]


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 5.0, 100.0])
def test_every_loss_that_q_fedavg_accepts_gives_weights(q: float) -> None:
    for loss in (0.0, 1e-12, 1.0, 20.0):
        updates = [with_value(3e38), honest(1), honest(2)]
        run = SmallAverage(
            start(), aggregation="q_fedavg", aggregation_options={"q": q, "learning_rate": 1e-3}
        )
        survivors(run, updates, metrics=[{"loss": loss}, {"loss": 1.0}, {"loss": 20.0}])


def test_a_device_without_a_loss_is_refused_and_the_round_closes_with_the_others() -> None:
    fleet = SmallFleet(devices=3, aggregation="q_fedavg", minimum_replies=2)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0")
    data = fleet.upload("thing-1", opened, update_full_of(1.0))
    fleet.say("thing-1", Kind.COMPLETE, fleet.completion(opened, data, metrics={}))
    fleet.reply("thing-2", opened)
    assert fleet.parts(opened)["thing-1"] is Participation.REFUSED
    assert "thing-1 reported None" in fleet.told_of("thing-1")[0]
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good) == (State.CLOSED, 2)


class ByLoss(Strategy, frozen=True):
    """A custom strategy that relies on a metric that not every device reports."""

    separable = True

    def share(self, contribution: Contribution) -> float:
        return 1 / contribution.metrics["loss"]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [({}, "share raised KeyError: 'loss'"), ({"loss": 0.0}, "share raised ZeroDivisionError"),
     ({"loss": -1.0}, "share returned -1; all must be above 0")],
)  # fmt: skip
def test_a_share_that_fails_for_one_update_refuses_it_and_for_all_abandons_the_round(
    metrics: dict[str, float], said: str
) -> None:
    updates = [honest(seed) for seed in range(DEVICES)]
    own = f"{__name__}:{ByLoss.__name__}"
    reported = [*LOSSES[:BAD], metrics, *LOSSES[BAD + 1 :]]
    _, refused = survivors(SmallAverage(start(), aggregation=own), updates, metrics=reported)
    assert refused.keys() == {str(BAD)}
    assert said in refused[str(BAD)]
    with pytest.raises(AggregationFailed, match=r"ByLoss': share"):
        SmallAverage(start(), aggregation=own).round(updates, metrics=[metrics] * DEVICES)


class Breaks(Strategy, frozen=True):
    """A custom strategy with a bug; no update is to blame."""

    def step(self, model: Any, change: Any, state: Any, turn: int) -> Any:  # noqa: ARG002 - the strategy's signature
        return model * np.nan


@pytest.mark.parametrize("devices", [1, 2, DEVICES])
def test_a_strategy_that_fails_at_honest_updates_abandons_the_round(devices: int) -> None:
    run = SmallAverage(start(), aggregation=f"{__name__}:{Breaks.__name__}")
    with pytest.raises(AggregationFailed, match="Breaks"):
        run.round([honest(seed) for seed in range(devices)])


@pytest.mark.parametrize("setting", [{"largest_norm": 10.0}, {"clip_norm": 10.0}, {}], ids=str)
@pytest.mark.parametrize("value", [1e30, 3e38, 100.0])
def test_the_control_variate_of_an_update_is_limited_like_the_update(
    value: float, setting: dict[str, Any]
) -> None:
    run = SmallAverage(start(), aggregation="scaffold", **setting)
    zeros = run._carried()
    hostile = {**zeros, "control:w": np.full(40, value, np.float32)}
    files = [run.unchecked(honest(seed), hostile if seed == BAD else zeros) for seed in range(DEVICES)]
    run.upload(files)
    if "largest_norm" in setting:
        with pytest.raises(BadUpdates) as bad:
            run.make(DEVICES)
        norm = f"{np.linalg.norm(hostile['control:w'].astype(np.float64)):.6g}"
        assert bad.value.refused == {
            f"thing-{BAD:04}": f"its change of the control has the norm {norm}; 10 is the most (largest_norm)"
        }
        return
    run.make(DEVICES)
    server = run.state("control")["control:w"].astype(np.float64)
    assert np.linalg.norm(server) == pytest.approx(
        (10.0 if setting else np.sqrt(40) * np.float32(value)) / DEVICES, rel=1e-5
    )


def test_clipping_a_control_leaves_the_model_unchanged() -> None:
    """The norm of a control, a mean gradient, may be many times that of the model's change."""
    updates = [honest(seed) for seed in range(DEVICES)]
    carried = {"control:w": np.full(40, 50.0, np.float32)}
    plain = SmallAverage(start(), aggregation="scaffold").round([{**one, **carried} for one in updates])
    run = SmallAverage(start(), aggregation="scaffold", clip_norm=10.0)
    clipped = run.round([{**one, **carried} for one in updates])
    for name, array in plain.items():
        np.testing.assert_array_equal(clipped[name], array)
    assert np.linalg.norm(run.state("control")["control:w"]) == pytest.approx(10.0, rel=1e-5)
