"""Arrays that no gradient moves are averaged, never stepped: running statistics, counts, other buffers."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from cloud_functions.aggregation import server_step
from components.trainer.training import TorchTask
from fedgrass.federation.aggregation import STRATEGIES
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.weights import read_layout_and_metadata
from fedgrass.federation.weights.array_roles import TRAINED as DECLARATION
from fedgrass.federation.weights.array_roles import (
    Votes,
    averaged_arrays,
    count_votes,
    declared_names,
    is_statistic,
    trained_metadata,
)
from tests.fakes.small_average import AVERAGING, SmallAverage, file_of

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them

Arrays = dict[str, NDArray[Any]]
TRAINED = frozenset({"w"})
LOSSES = [{"loss": 0.5}] * 6
# Each moves the model further than, or otherwise than, to the mean of the updates.
STEPPING: dict[str, dict[str, Any]] = {
    "fedavgm": {},
    "fedadagrad": {},
    "fedadam": {"server_rate": 1.0},
    "fedyogi": {"server_rate": 1.0},
    "q_fedavg": {"q": 2.0},
    "scaffold": {"server_rate": 2.5},
    "tests.own_strategies:GeometricShares": {"power": 1.0, "rate": 4.0},
    "tests.own_strategies:DoubleWeights": {},
    "tests.own_strategies:BeyondAll": {},
    "tests.own_strategies:NegativeWeights": {},
}
DIFFERENCES = [
    Encoding(difference=True),
    Encoding(kind="float16", difference=True),
    Encoding(kind="bfloat16", difference=True),
    Encoding(kind="int8", difference=True),
    Encoding(kind="top_k", difference=True, fraction=0.1),
]


def model() -> Arrays:
    return {
        "w": np.linspace(-1, 1, 40, dtype=np.float32),
        "gauge": np.linspace(0.5, 9, 30, dtype=np.float32),  # a buffer with a meaningless name
        "wide": np.linspace(0.5, 9, 30),
        "half": np.linspace(0.5, 9, 30).astype(np.float16),
        "count": np.array([100, 7]),
        "mask": np.array([True, False]),
    }


def updates_of(base: Arrays, seed: int) -> list[Arrays]:
    """Return six updates whose statistics shrink fast: a step along their momentum would be below zero."""
    rng = np.random.default_rng(seed)

    def update() -> Arrays:
        kept = float(rng.uniform(0.1, 0.4))
        return {
            "w": (base["w"] + rng.normal(0, 0.1, 40)).astype(np.float32),
            "gauge": (base["gauge"] * kept).astype(np.float32),
            "wide": base["wide"] * kept,
            "half": (base["half"] * np.float16(kept)).astype(np.float16),
            "count": base["count"] + 10,
            "mask": base["mask"],
        }

    return [update() for _ in range(6)]


def assert_in_range(made: NDArray[Any], some: list[NDArray[Any]], slack: float) -> None:
    rows = np.stack([one.astype(np.float64) for one in some])
    assert (made.astype(np.float64) >= rows.min(axis=0) - slack).all()
    assert (made.astype(np.float64) <= rows.max(axis=0) + slack).all()


@pytest.mark.parametrize("name", [*AVERAGING, *(name for name in STEPPING if ":" in name)])
def test_every_strategy_keeps_statistics_in_the_range_of_its_updates(name: str) -> None:
    run = SmallAverage(model(), aggregation=name, aggregation_options=STEPPING.get(name, {}))
    for seed in range(4):
        base = run.model
        updates = updates_of(base, seed)
        made = run.round(updates, trained=TRAINED, metrics=LOSSES)
        for array in ("gauge", "wide", "half", "count"):
            # The previous model is in the range where weights below zero do not give a mean.
            some = [base] if "Negative" in name else updates
            assert_in_range(made[array], [one[array] for one in some], 1e-3 if array == "half" else 1e-5)
        assert made["mask"].tolist() == [True, False]


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold"])
def test_statistics_get_the_very_mean_and_the_server_keeps_nothing_of_them(name: str) -> None:
    options = {"server_rate": 2.0}
    run = SmallAverage(model(), aggregation=name, aggregation_options=options)
    counts = None if name == "scaffold" else [10, 30, 20, 25, 11, 12]
    for seed in range(2):
        updates = updates_of(run.model, seed)
        weights = np.array(counts or [1] * 6, dtype=np.float64)
        made = run.round(updates, trained=TRAINED, examples=counts)
        expected = np.average([one["gauge"] for one in updates], axis=0, weights=weights)
        np.testing.assert_allclose(made["gauge"], expected, rtol=1e-6)
    for state in STRATEGIES[name].state:
        kept = run.state(state)
        for array, values in kept.items():
            of_weights = array in {"w", "control:w"}
            assert of_weights or not values.any(), f"{state} has values of {array}"


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_trained_arrays_are_stepped_as_if_there_were_no_statistics(name: str) -> None:
    plain = SmallAverage({"w": model()["w"]}, aggregation=name)
    mixed = SmallAverage(model(), aggregation=name)
    for seed in range(3):
        updates = updates_of(mixed.model, seed)
        alone = plain.round([{"w": one["w"]} for one in updates], trained=TRAINED)["w"]
        assert np.array_equal(mixed.round(updates, trained=TRAINED)["w"], alone)


def test_q_fedavg_averages_statistics_by_its_own_weights() -> None:
    start = {"w": np.zeros(3, np.float32), "gauge": np.full(3, 8.0, np.float32)}
    updates = [{"w": start["w"], "gauge": np.full(3, value, np.float32)} for value in (2.0, 4.0)]
    run = SmallAverage(start, aggregation="q_fedavg", aggregation_options={"q": 1.0})
    made = run.round(updates, trained=TRAINED, metrics=[{"loss": 3.0}, {"loss": 1.0}])
    np.testing.assert_allclose(made["gauge"], 2.5, rtol=1e-6)


def test_a_minority_that_lies_decides_nothing_and_a_tie_is_averaged() -> None:
    arrays = ["w", "gauge"]
    honest, liar = trained_metadata({"w"})["trained"], trained_metadata({"gauge"})["trained"]
    assert averaged_arrays(arrays, count_votes(arrays, [honest] * 3 + [liar] * 2)) == {"gauge"}
    assert averaged_arrays(arrays, count_votes(arrays, [honest] * 2 + [liar] * 2)) == {"w", "gauge"}


def test_one_liar_among_older_devices_decides_nothing() -> None:
    arrays = ["w", "bn.running_var"]
    liar = trained_metadata({"bn.running_var"})["trained"]
    votes = count_votes(arrays, ["", "", "", liar])
    assert averaged_arrays(arrays, votes) == {"bn.running_var"}
    assert not votes.is_declared


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_a_lying_update_among_honest_ones_does_not_step_a_statistic(name: str) -> None:
    run = SmallAverage(model(), aggregation=name, aggregation_options={"server_rate": 2.0})
    for seed in range(4):
        updates = updates_of(run.model, seed)
        files = [run.encode(one, trained=TRAINED) for one in updates]
        files[2] = run.encode(updates[2], trained=model().keys())
        made = run.round(files)
        assert_in_range(made["gauge"], [one["gauge"] for one in updates], 1e-5)


@pytest.mark.parametrize("text", ["", "yes", "{}", "[1]", '["w", null]', "[" * 10_000])
def test_a_declaration_that_is_no_list_of_names_is_none(text: str) -> None:
    assert declared_names(text) is None


def declaration_in(file: bytes) -> str:
    _, metadata = read_layout_and_metadata(file, len(file))
    return metadata.get(DECLARATION, "")


def test_a_declaration_travels_in_the_header_of_an_update() -> None:
    names = frozenset({"w", 'a "quoted" name', "größe"})
    run = SmallAverage({"w": np.zeros(2, np.float32)})
    file = run.encode({"w": np.zeros(2, np.float32)}, trained=names)
    assert declared_names(declaration_in(file)) == names
    assert declaration_in(file_of({"w": np.zeros(2, np.float32)})) == ""


def test_votes_of_groups_add_up() -> None:
    one, other = Votes(2, 1, [2, 0]), Votes(3, 3, [3, 1])
    assert one + other == Votes(5, 4, [5, 1])
    assert one + Votes() == Votes() + one == one


@pytest.mark.parametrize(
    "name",
    ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked", "norm/moving_variance", "layer.variance"],
)
def test_statistics_of_the_usual_frameworks_are_known_by_their_names(name: str) -> None:
    assert is_statistic(name)


@pytest.mark.parametrize(
    "name", ["w", "encoder.log_var.weight", "fc_var", "running.weight", "variances.bias"]
)
def test_other_names_are_not_taken_for_statistics(name: str) -> None:
    assert not is_statistic(name)


def warnings_of(run: SmallAverage) -> list[str]:
    published: Any = run.services.publisher
    return [text for _, data in published.published if "warning" in (text := data.decode())]


@pytest.mark.parametrize("array", ["bn.running_var", "second_moment"])
@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold"])
def test_without_declarations_a_variance_stays_in_the_range_of_its_updates(name: str, array: str) -> None:
    rate = {"scaffold": 2.5, "fedadagrad": 2.0}.get(name, 1.0)
    start = {"w": model()["w"], array: np.full(16, 1.0, np.float32)}
    run = SmallAverage(start, aggregation=name, aggregation_options={"server_rate": rate})
    warned = 0
    for seed in range(6):
        rng, base = np.random.default_rng(seed), run.model
        updates = [
            {"w": base["w"], array: (base[array] * rng.uniform(0.1, 0.4)).astype(np.float32)}
            for _ in range(3)
        ]
        made = run.round(updates)
        assert (made[array] >= 0).all()
        warned += len(warnings_of(run))
    assert warned, "nobody was warned"
    assert array in warnings_of(run)[-1]


def test_with_declarations_a_trained_array_may_cross_zero_and_nobody_is_warned() -> None:
    run = SmallAverage({"w": np.full(8, 1.0, np.float32)}, aggregation="fedavgm")
    for value in (0.5, 0.25):
        made = run.round([{"w": np.full(8, value, np.float32)}], trained=TRAINED)["w"]
    assert (made < 0).all()
    assert not warnings_of(run)


@pytest.mark.parametrize("encoding", DIFFERENCES, ids=lambda encoding: encoding.kind)
def test_an_encoded_difference_of_a_statistic_is_never_beyond_its_value(encoding: Encoding) -> None:
    rng = np.random.default_rng(3)
    start = np.concatenate([10 ** rng.uniform(-6, 4, 5000), [1000.00003]]).astype(np.float32)
    after = np.concatenate([10 ** rng.uniform(-9, 4, 5000), [1e-6]]).astype(np.float32)
    run = SmallAverage({"w": model()["w"], "gauge": start}, encoding=encoding)
    made = run.round([{"w": model()["w"], "gauge": after}], trained=TRAINED)["gauge"].astype(np.float64)
    slack = np.abs(made) * 2.0**-23  # of the model's own float32
    assert (made >= np.minimum(start, after) - slack).all()
    assert (made <= np.maximum(start, after) + slack).all()
    assert (made >= 0).all()


class Normalized(nn.Module):
    """Tied weights, frozen weights, batch normalization and a buffer with an unusual name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(8)
        self.gauge: torch.Tensor
        self.register_buffer("gauge", torch.ones(4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.gauge.mul_(0.5)
        hidden = torch.relu(self.norm(self.frozen(self.second(torch.relu(self.first(inputs))))))
        result: torch.Tensor = self.out(hidden)
        return result


def task(seed: int) -> TorchTask:
    inputs = torch.randn(96, 8, generator=torch.Generator().manual_seed(seed)) * 0.1
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    return TorchTask(Normalized, data, data)


def test_a_torch_task_declares_its_parameters_tied_ones_by_all_their_names() -> None:
    one = task(0)
    fit = one.fit(one.initial_weights(0), {"seed": 1}, lambda _: None, lambda: False)
    names = {"first", "second", "out", "norm"}
    assert fit.trained == frozenset(f"{name}.{part}" for name in names for part in ("weight", "bias"))
    plain = one.fit_corrected(one.initial_weights(0), {"seed": 1}, lambda _: None, lambda: False, {})
    assert plain.trained == fit.trained
    assert plain.steps
    assert plain.steps.arrays == fit.trained


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold", "q_fedavg"])
def test_a_network_with_batch_normalization_learns_under_every_server_optimizer(name: str) -> None:
    tasks = [task(seed) for seed in range(3)]
    rate = {} if name == "q_fedavg" else {"server_rate": 1.5 if name in {"fedavgm", "scaffold"} else 0.05}
    run = SmallAverage(tasks[0].initial_weights(0), aggregation=name, aggregation_options=rate)
    for number in range(6):
        settings = {"seed": number, "learning_rate": 0.02, "epochs": 3}
        fits = [one.fit(run.model, settings, lambda _: None, lambda: False) for one in tasks]
        metrics = [dict(one.evaluate(run.model).metrics) for one in tasks]
        made = run.round([dict(fit.weights) for fit in fits], trained=fits[0].trained, metrics=metrics)
        assert (made["norm.running_var"] >= 0).all()
        assert (made["gauge"] >= 0).all()
        assert np.array_equal(made["first.weight"], made["second.weight"]), "tied weights came apart"
        assert np.isfinite(tasks[0].evaluate(made).metrics["loss"])


def test_a_slice_without_statistics_is_stepped_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Any] = []
    mask = server_step.ServerStep.mask

    def seen(*args: Any) -> Any:
        masks.append(mask(*args))
        return masks[-1]

    monkeypatch.setattr(server_step.ServerStep, "mask", seen)
    run = SmallAverage({"w": model()["w"]}, aggregation="fedavgm")
    run.round([{"w": model()["w"]}], trained=TRAINED)
    assert masks == [None]
