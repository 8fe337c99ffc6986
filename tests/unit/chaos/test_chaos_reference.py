"""The campaign's reference implementation, compared with the averager for every strategy and encoding."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from fedgrass.federation import object_keys
from fedgrass.federation.encodings import Encoding, encode_model
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import encode
from tests.chaos.audit import _distance, _lost
from tests.chaos.drawing import OPTIONS
from tests.chaos.reference import _STEPS, CARRIED, Model, Server, Update, next_model, read_file
from tests.fakes.small_average import AVERAGING, RUN, SmallAverage

DEVICES, ROUNDS = 5, 3
INITIAL: Mapping[str, np.ndarray[Any, Any]] = {
    "body": np.linspace(-1, 1, 9_000, dtype=np.float32).reshape(90, 100),
    "bias": np.ones(50, dtype=np.float32),
}
EXAMPLES, LOSSES = [3, 10, 1, 7, 4], [0.5, 2.0, 0.1, 1.0, 0.7]
ENCODINGS = [
    Encoding(),
    Encoding(kind="float16"),
    Encoding(kind="bfloat16", difference=True),
    Encoding(kind="int8", difference=True),
    Encoding(kind="top_k", difference=True, fraction=0.1),
]


def trained(model: Mapping[str, Any], device: int, number: int) -> dict[str, Any]:
    rng = np.random.default_rng([device, number])
    return {
        name: (array + rng.standard_normal(array.shape)).astype(np.float32) for name, array in model.items()
    }


def wide(model: Mapping[str, Any]) -> Model:
    return {name: array.astype(np.float64) for name, array in model.items()}


def play(
    average: SmallAverage, examples: Sequence[int] = EXAMPLES, declared: Collection[str] | None = None
) -> float:
    """Play some rounds; return the largest difference between the models, or their states."""
    server, worst = Server(), 0.0
    for number in range(1, ROUNDS + 1):
        base = average.model
        average.upload(
            [_with_control(average, trained(base, device, number), number) for device in range(DEVICES)],
            declared,
        )
        files = [
            average.bucket.objects[object_keys.update(f"thing-{device:04}", RUN, number, 1)]
            for device in range(DEVICES)
        ]
        updates = [Update(*reply) for reply in zip(files, examples, LOSSES, strict=True)]
        expected = next_model(wide(base), updates, average.settings, server, DEVICES)
        made = average.make(DEVICES, examples, [{"loss": loss} for loss in LOSSES])
        worst = max(worst, *(float(np.abs(made[name] - expected[name]).max()) for name in INITIAL))
        for name, state in server.state.items():
            found = {array.removeprefix(CARRIED): values for array, values in average.state(name).items()}
            worst = max(worst, *(float(np.abs(found[array] - state[array]).max()) for array in INITIAL))
    return worst


def _with_control(average: SmallAverage, update: dict[str, Any], number: int) -> dict[str, Any]:
    if average.settings.aggregation != "scaffold":
        return update
    return {
        **update,
        **{CARRIED + name: np.full(array.shape, number, np.float32) for name, array in INITIAL.items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.kind)
@pytest.mark.parametrize("aggregation", sorted(AVERAGING))
def test_the_reference_makes_the_model_that_the_averager_makes(aggregation: str, encoding: Encoding) -> None:
    assert play(SmallAverage(INITIAL, encoding=encoding, aggregation=aggregation)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", sorted(AVERAGING))
def test_the_reference_caps_claims_and_averages_statistics_as_the_averager_does(aggregation: str) -> None:
    claims = [3, 2**53, 1, 7, 400]
    assert play(SmallAverage(INITIAL, aggregation=aggregation), claims, declared={"body"}) < 1e-5


@pytest.mark.parametrize("aggregation", ["mean", "fedadam", "median", "multi_krum"])
def test_the_reference_clips_long_changes_as_the_averager_does(aggregation: str) -> None:
    assert play(SmallAverage(INITIAL, aggregation=aggregation, clip_norm=40.0)) < 1e-5


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.kind)
@pytest.mark.parametrize("aggregation", sorted(set(AVERAGING) - {"q_fedavg", "scaffold"}))
@pytest.mark.parametrize("staleness", ["polynomial", "hinge"])
def test_the_reference_weighs_stale_updates_as_the_averager_does(
    aggregation: str, encoding: Encoding, staleness: str
) -> None:
    average = SmallAverage(
        INITIAL,
        encoding=encoding,
        aggregation=aggregation,
        clip_norm=80.0,
        mode="buffered",
        buffer_size=DEVICES,
        in_flight=2 * DEVICES,
        staleness=staleness,
        staleness_slack=1,
    )
    server = Server()
    for number in range(1, 5):
        newest = number - 1
        starts = [max(0, newest - age) for age in (0, 1, 0, 3, 2)]
        models = [average.model_of(start) for start in starts]
        average.upload([trained(model, d, number) for d, model in enumerate(models)], {"body"}, starts)
        keys = [
            object_keys.update(f"thing-{device:04}", RUN, start + 1, 1) for device, start in enumerate(starts)
        ]
        updates = [
            Update(average.bucket.objects[key], examples, loss, wide(model), newest - start)
            for key, examples, loss, model, start in zip(keys, EXAMPLES, LOSSES, models, starts, strict=True)
        ]
        expected = next_model(wide(average.model), updates, average.settings, server, DEVICES)
        made = average.make(DEVICES, EXAMPLES, starts=starts)
        for name in INITIAL:
            np.testing.assert_allclose(made[name], expected[name], atol=2e-5, rtol=2e-5)


def test_the_reference_detects_an_update_that_counts_twice_with_each_strategy() -> None:
    updates = [
        Update(SmallAverage(INITIAL).encode(trained(INITIAL, d, 1)), EXAMPLES[d], LOSSES[d]) for d in range(5)
    ]
    for aggregation in sorted(set(AVERAGING) - {"krum", "scaffold"}):
        options = OPTIONS.get(aggregation, {})
        chosen = {"task": "noise", "aggregation": aggregation, "aggregation_options": options}
        settings = parse_settings(chosen)
        once = next_model(wide(INITIAL), updates, settings, Server(), 5)
        twice = next_model(wide(INITIAL), [*updates, updates[1]], settings, Server(), 5)
        assert max(float(np.abs(once[name] - twice[name]).max()) for name in once) > 1e-3


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8"])
def test_the_reference_reads_a_model_as_devices_download_it(kind: Any) -> None:
    file = SmallAverage(INITIAL).bucket.objects[object_keys.model(RUN, 0)]
    shapes = {name: array.shape for name, array in INITIAL.items()}
    found = read_file(encode_model(file, Encoding(kind=kind)), shapes)
    assert found.keys() == INITIAL.keys()
    for name, array in INITIAL.items():
        np.testing.assert_allclose(found[name], array, atol=0.01)


@pytest.mark.parametrize("kind", ["int8", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [0.01, 1.0, 40.0])
def test_an_encoded_download_may_lose_only_what_its_encoding_loses(
    kind: Literal["int8", "float16", "bfloat16"], size: float
) -> None:
    rng = np.random.default_rng(1)
    model = {name: (rng.normal(size=(50, 40)) * size).astype(np.float32) for name in ("body", "bias")}
    exact = {name: values.astype(np.float64) for name, values in model.items()}
    shapes = {name: values.shape for name, values in model.items()}
    found = read_file(encode_model(encode(model), Encoding(kind=kind)), shapes)
    assert _lost(found, exact, kind) <= 1
    damaged = {name: values * 1.02 for name, values in found.items()}
    assert _lost(damaged, exact, kind) > 2


def test_values_decided_by_the_sign_of_a_rounding_error_are_not_compared() -> None:
    change = {"body": np.array([0.1, 0.1 + 1e-9, 0.2, 0.0])}
    server = Server(state={"variance": {"body": np.array([0.01, 0.01, 0.01, 0.0])}})
    _STEPS["fedyogi"](change, server, {"server_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3})
    assert server.uncertain["body"].tolist() == [True, True, False, False]
    expected = server.state["variance"]
    assert _distance({"body": expected["body"] + [1, 1, 0, 0]}, expected, server.uncertain) == 0
    assert _distance({"body": expected["body"] + [0, 0, 1e-4, 0]}, expected, server.uncertain) > 2e-5
