"""Changes that are too long are clipped or refused before a strategy sees them."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_functions.aggregation.update_reader import BadUpdates
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.topics import Kind
from tests.fakes.small_average import AVERAGING, SmallAverage
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet

Arrays = dict[str, NDArray[Any]]
LENGTHS = (0.0, 0.5, 1.0, 4.0, 7.0, 30.0)
LOSSES = [{"loss": 0.5 + length} for length in LENGTHS]


def start() -> Arrays:
    rng = np.random.default_rng(3)
    return {
        "w": rng.standard_normal((8, 8), dtype=np.float32),
        "b": rng.standard_normal(8),
        "batches": np.array(5),
    }


def update(length: float, seed: int) -> Arrays:
    """Return full weights whose change has the norm ``length``, over both arrays together."""
    rng = np.random.default_rng(seed)
    change = {"w": rng.standard_normal((8, 8)), "b": rng.standard_normal(8)}
    norm = np.sqrt(sum(np.square(values).sum() for values in change.values()))
    begun = start()
    return {
        "w": (begun["w"] + change["w"] * length / norm).astype(np.float32),
        "b": begun["b"] + change["b"] * length / norm,
        "batches": np.array(5),
    }


def updates(most: float = np.inf) -> list[Arrays]:
    return [update(min(length, most), seed) for seed, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("name", AVERAGING)
def test_clipping_equals_averaging_changes_that_devices_clipped(name: str, *, difference: bool) -> None:
    settings: dict[str, Any] = {"aggregation": name, "encoding": Encoding(difference=difference)}
    clipped = SmallAverage(start(), clip_norm=2.0, **settings).round(updates(), metrics=LOSSES)
    shorter = SmallAverage(start(), **settings).round(updates(2.0), metrics=LOSSES)
    for array in ("w", "b"):
        np.testing.assert_allclose(clipped[array], shorter[array], rtol=1e-5, atol=3e-6)


def test_changes_below_the_limit_are_not_modified() -> None:
    plain = SmallAverage(start()).round(updates(2.0))
    assert SmallAverage(start(), clip_norm=2.1).round(updates(2.0))["w"].tobytes() == plain["w"].tobytes()


def test_the_norm_covers_all_arrays_and_a_change_of_exactly_the_largest_norm_counts() -> None:
    run = SmallAverage(start(), largest_norm=4.0001)
    with pytest.raises(BadUpdates) as bad:
        run.round(updates())
    assert bad.value.refused == {
        "thing-0004": "its change has the norm 7; 4.0001 is the most (largest_norm)",
        "thing-0005": "its change has the norm 30; 4.0001 is the most (largest_norm)",
    }


def test_whole_numbers_do_not_enter_the_norm() -> None:
    """A count of batches would dominate the norm of every change."""
    counted = {**update(0.5, 1), "batches": np.array(5_000)}
    made = SmallAverage(start(), largest_norm=1.0).round([counted])
    assert made["batches"].tolist() == 5_000


@pytest.mark.parametrize("aggregation", ["weighted_mean", "median", "krum"])
def test_an_update_that_is_too_long_is_refused_by_name_and_the_round_closes_with_the_others(
    aggregation: str,
) -> None:
    options = {"malicious": 0} if aggregation == "krum" else {}
    fleet = SmallFleet(devices=5, aggregation=aggregation, aggregation_options=options, largest_norm=50.0)
    fleet.start()
    opened = fleet.newest()
    arrays: dict[str, Any] = dict(INITIAL)
    for number, device in enumerate(fleet.names):
        change = 1000.0 if number == 2 else 1.0
        values = {name: np.add(array, change).astype(array.dtype) for name, array in arrays.items()}
        fleet.say(device, Kind.COMPLETE, fleet.completion(opened, fleet.upload(device, opened, values)))
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.refused) == (State.CLOSED, 4, 1)
    assert fleet.parts(opened)["thing-2"] is Participation.REFUSED
    assert fleet.told_of("thing-2") == [
        "update refused: its change has the norm 3000; 50 is the most (largest_norm)"
    ]
    assert fleet.model(1)["weight"].tolist() == (INITIAL["weight"] + 1).tolist()
