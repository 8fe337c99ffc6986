"""The strategies compared with Flower's, on the same updates, over consecutive rounds.

Each side continues from its own model. Ours are kept in float32; Flower's FedAdam and QFedAvg use float64.
The table of strategies in docs/flower.md has the same pairs: tests/documents/test_flower_page.py compares
them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from fedgrass.federation.aggregation import STRATEGIES
from tests.fakes.small_average import SmallAverage

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from flwr.serverapp import strategy as flower

from tests.fakes.flower import FlowerRun

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them
ROUNDS = 4
CLIENTS = 8
EXAMPLES = [10, 40, 25, 90, 5, 60, 33, 71]
LOSSES = [{"loss": 0.3 + 0.4 * client} for client in range(CLIENTS)]
# float32 on both sides: a few roundings of the last digit in each round.
TOLERANCE = 1e-6
Arrays = dict[str, NDArray[Any]]


def start() -> Arrays:
    rng = np.random.default_rng(5)
    return {
        "w": rng.standard_normal((6, 5), dtype=np.float32),
        "b": rng.standard_normal(5, dtype=np.float32),
    }


def offsets(number: int) -> list[Arrays]:
    """Return the change by training in round ``number``: a common direction, and one per client."""
    rng = np.random.default_rng(number)

    def changes(spread: float) -> Arrays:
        return {
            "w": rng.normal(0, spread, (6, 5)).astype(np.float32),
            "b": rng.normal(0, spread, 5).astype(np.float32),
        }

    common = changes(0.1)
    own = [changes(0.02 * (1 + client)) for client in range(CLIENTS)]
    return [{name: common[name] + mine[name] for name in mine} for mine in own]


def moved(model: Arrays, changes: Arrays) -> Arrays:
    return {name: (model[name] + changes[name]).astype(np.float32) for name in model}


class Pair(NamedTuple):
    """Our strategy with its options, Flower's with its arguments, and the number of Flower's first round."""

    ours: str
    options: dict[str, Any]
    flowers: str
    arguments: dict[str, Any]
    first_round: int = 1


PAIRS = [
    Pair("weighted_mean", {}, "FedAvg", {}),
    # What FedProx does on the server; its `proximal-mu` reaches the devices as a setting of the training.
    Pair("weighted_mean", {}, "FedProx", {"proximal_mu": 0.1}),
    Pair("fedavgm", {}, "FedAvgM", {"server_momentum": 0.9}),
    Pair("fedavgm", {"server_rate": 0.5, "momentum": 0.0}, "FedAvgM", {"server_learning_rate": 0.5}),
    # Kingma and Ba correct the first step with the exponent 1, as ours does. Flower's exponent is its
    # server_round + 1; if its first round has the number 0, it takes the same steps.
    Pair("fedadam", {}, "FedAdam", {}, first_round=0),
    Pair("fedadam", {"tau": 1e-2, "beta_1": 0.5}, "FedAdam", {"tau": 1e-2, "beta_1": 0.5}, first_round=0),
    Pair("fedadam", {"first_exponent": 2}, "FedAdam", {}),
    Pair(
        "fedadam",
        {"first_exponent": 2, "server_rate": 0.3, "beta_2": 0.9},
        "FedAdam",
        {"eta": 0.3, "beta_2": 0.9},
    ),
    Pair("fedyogi", {}, "FedYogi", {}),
    Pair("fedyogi", {"server_rate": 0.1, "tau": 1e-2}, "FedYogi", {"eta": 0.1, "tau": 1e-2}),
    Pair("fedadagrad", {}, "FedAdagrad", {}),
    Pair("fedadagrad", {"server_rate": 0.05}, "FedAdagrad", {"eta": 0.05}),
    Pair("median", {}, "FedMedian", {}),
    Pair("trimmed_mean", {}, "FedTrimmedAvg", {}),
    Pair("trimmed_mean", {"cut": 0.4}, "FedTrimmedAvg", {"beta": 0.4}),
    Pair("krum", {}, "Krum", {"num_malicious_nodes": 1}),
    Pair("krum", {"malicious": 2}, "Krum", {"num_malicious_nodes": 2}),
    # Blanchard et al. leave the number of kept updates open; Flower's default is one, ours N - f - 2.
    Pair("multi_krum", {}, "MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": CLIENTS - 3}),
    Pair("multi_krum", {"keep": 3}, "MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}),
    Pair("q_fedavg", {}, "QFedAvg", {"client_learning_rate": 0.1}),
    Pair("q_fedavg", {"q": 2.0}, "QFedAvg", {"client_learning_rate": 0.1, "q": 2.0}),
    Pair("q_fedavg", {"q": 0.0}, "QFedAvg", {"client_learning_rate": 0.1, "q": 0.0}),
    Pair("q_fedavg", {"learning_rate": 0.5}, "QFedAvg", {"client_learning_rate": 0.5}),
]


def compare(ours: SmallAverage, theirs: FlowerRun) -> None:
    for number in range(1, ROUNDS + 1):
        changes = offsets(number)
        made = ours.round([moved(ours.model, c) for c in changes], examples=EXAMPLES, metrics=LOSSES)
        expected = theirs.round([moved(theirs.model, c) for c in changes], EXAMPLES, LOSSES)
        for name, values in expected.items():
            np.testing.assert_allclose(made[name], values, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair.flowers}-{pair.options}" for pair in PAIRS])
def test_a_strategy_makes_the_models_that_flowers_makes(pair: Pair) -> None:
    ours = SmallAverage(start(), aggregation=pair.ours, aggregation_options=pair.options)
    made_by = getattr(flower, pair.flowers)(**pair.arguments)
    compare(ours, FlowerRun(made_by, start(), pair.first_round))


@pytest.mark.parametrize("clip_norm", [0.1, 0.8, 100.0])
def test_clipping_shortens_as_flowers_clipping_does(clip_norm: float) -> None:
    """Flower's wrapper for differential privacy, without noise, before a weighted mean."""
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvg(), 0.0, clip_norm, CLIENTS)
    compare(SmallAverage(start(), clip_norm=clip_norm), FlowerRun(wrapped, start()))


def test_a_mean_of_whole_numbers_is_rounded_where_flowers_is_a_fraction() -> None:
    """Such as BatchNorm's num_batches_tracked, if devices have different numbers of batches."""
    updates = [{"count": np.array(count, np.int64)} for count in (3, 4, 4)]
    examples, metrics, zero = [10, 10, 10], LOSSES[:3], {"count": np.array(0, np.int64)}
    theirs = FlowerRun(flower.FedAvg(), zero).round(updates, examples, metrics)["count"]
    ours = SmallAverage(zero).round(updates, examples=examples, metrics=metrics)["count"]
    assert (str(theirs.dtype), str(ours.dtype)) == ("float64", "int64")
    assert float(theirs) == pytest.approx(11 / 3)
    assert int(ours) == 4


DEFAULTS = [
    ("fedadagrad", flower.FedAdagrad, {"server_rate": "eta", "beta_1": "beta_1", "tau": "tau"}),
    (
        "fedadam",
        flower.FedAdam,
        {"server_rate": "eta", "beta_1": "beta_1", "beta_2": "beta_2", "tau": "tau"},
    ),
    (
        "fedyogi",
        flower.FedYogi,
        {"server_rate": "eta", "beta_1": "beta_1", "beta_2": "beta_2", "tau": "tau"},
    ),
    ("trimmed_mean", flower.FedTrimmedAvg, {"cut": "beta"}),
    ("q_fedavg", lambda: flower.QFedAvg(client_learning_rate=0.1), {"q": "q"}),
    # Not "fedavgm": Flower's momentum is 0, which is FedAvg; ours is 0.9 as in Hsu et al.
    ("fedavgm", flower.FedAvgM, {"server_rate": "server_learning_rate"}),
]


@pytest.mark.parametrize(("name", "make", "same"), DEFAULTS, ids=[one[0] for one in DEFAULTS])
def test_defaults_are_flowers_where_the_papers_leave_them_open(
    name: str, make: Callable[[], Any], same: dict[str, str]
) -> None:
    theirs = make()
    for option, attribute in same.items():
        assert getattr(STRATEGIES[name], option) == getattr(theirs, attribute), option
