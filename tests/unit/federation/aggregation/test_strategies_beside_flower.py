"""The strategies compared with Flower's, on the same updates, over consecutive rounds.

Each side continues from its own model. Ours are kept in float32; Flower's FedAdam and QFedAvg use float64.
"""

from collections.abc import Callable
from typing import Any

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
TOLERANCE = 2e-6
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


# Our strategy, its options, Flower's, and the round number that Flower starts with.
PAIRS: list[tuple[str, dict[str, Any], Callable[[], Any], int]] = [
    ("weighted_mean", {}, flower.FedAvg, 1),
    ("fedavgm", {}, lambda: flower.FedAvgM(server_momentum=0.9), 1),
    ("fedavgm", {"server_rate": 0.5, "momentum": 0.0}, lambda: flower.FedAvgM(server_learning_rate=0.5), 1),
    # Kingma and Ba correct the first step with the exponent 1, as ours does. Flower's exponent is its
    # server_round + 1; if its first round has the number 0, it takes the same steps.
    ("fedadam", {}, flower.FedAdam, 0),
    ("fedadam", {"tau": 1e-2, "beta_1": 0.5}, lambda: flower.FedAdam(tau=1e-2, beta_1=0.5), 0),
    ("fedyogi", {}, flower.FedYogi, 1),
    ("fedadagrad", {}, flower.FedAdagrad, 1),
    ("median", {}, flower.FedMedian, 1),
    ("trimmed_mean", {}, flower.FedTrimmedAvg, 1),
    ("trimmed_mean", {"cut": 0.4}, lambda: flower.FedTrimmedAvg(beta=0.4), 1),
    ("krum", {}, lambda: flower.Krum(num_malicious_nodes=1), 1),
    ("krum", {"malicious": 2}, lambda: flower.Krum(num_malicious_nodes=2), 1),
    # Blanchard et al. leave the number of kept updates open; Flower's default is one, ours N - f - 2.
    ("multi_krum", {}, lambda: flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=CLIENTS - 3), 1),
    ("multi_krum", {"keep": 3}, lambda: flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3), 1),
    ("q_fedavg", {}, lambda: flower.QFedAvg(client_learning_rate=0.1), 1),
    ("q_fedavg", {"q": 2.0}, lambda: flower.QFedAvg(client_learning_rate=0.1, q=2.0), 1),
    ("q_fedavg", {"q": 0.0}, lambda: flower.QFedAvg(client_learning_rate=0.1, q=0.0), 1),
]


def compare(ours: SmallAverage, theirs: FlowerRun) -> None:
    for number in range(1, ROUNDS + 1):
        changes = offsets(number)
        made = ours.round([moved(ours.model, c) for c in changes], examples=EXAMPLES, metrics=LOSSES)
        expected = theirs.round([moved(theirs.model, c) for c in changes], EXAMPLES, LOSSES)
        for name, values in expected.items():
            np.testing.assert_allclose(made[name], values, rtol=TOLERANCE, atol=TOLERANCE * 5)


@pytest.mark.parametrize(
    ("name", "options", "make", "first_round"), PAIRS, ids=[f"{pair[0]}-{pair[1]}" for pair in PAIRS]
)
def test_a_strategy_makes_the_models_that_flowers_makes(
    name: str, options: dict[str, Any], make: Callable[[], Any], first_round: int
) -> None:
    ours = SmallAverage(start(), aggregation=name, aggregation_options=options)
    compare(ours, FlowerRun(make(), start(), first_round))


@pytest.mark.parametrize("clip_norm", [0.1, 0.8, 100.0])
def test_clipping_shortens_as_flowers_clipping_does(clip_norm: float) -> None:
    """Flower's wrapper for differential privacy, without noise, before a weighted mean."""
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvg(), 0.0, clip_norm, CLIENTS)
    compare(SmallAverage(start(), clip_norm=clip_norm), FlowerRun(wrapped, start()))


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
