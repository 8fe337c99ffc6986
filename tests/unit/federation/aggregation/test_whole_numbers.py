"""Integers beyond 2^53 keep their digits if all updates agree, whatever the strategy."""

from typing import Any

import numpy as np
import pytest

from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.rounds import State
from fedgrass.federation.weights import encode
from tests.fakes.small_average import AVERAGING, SmallAverage
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet

BIG = 2**60 + 1
EDGES = np.array([BIG, -BIG, 2**63 - 1, -(2**63), 2**53 + 1, 12])
LOSSES = [{"loss": 0.5}] * 5


def model(ids: Any) -> dict[str, Any]:
    return {"w": np.zeros(4, np.float32), "ids": np.asarray(ids), "small": np.array([3], np.int8)}


@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("shift", [0, 5])
def test_numbers_that_all_updates_agree_on_keep_their_digits(name: str, shift: int) -> None:
    start = np.where(EDGES > 0, EDGES - shift, EDGES + shift)
    run = SmallAverage(model(start), aggregation=name)
    made = run.round([model(EDGES)] * 5, metrics=LOSSES, examples=[3, 5, 7, 2, 4])
    assert made["ids"].tolist() == EDGES.tolist()
    assert made["small"].tolist() == [3]


def test_numbers_that_nobody_changed_stay_under_clipping() -> None:
    updates = [{**model([BIG]), "w": np.full(4, value, np.float32)} for value in (1.0, 2.0, 3.0)]
    run = SmallAverage(model([BIG]), aggregation="weighted_mean", clip_norm=0.1)
    assert run.round(updates)["ids"].tolist() == [BIG]


def test_where_updates_disagree_it_is_the_mean_to_53_binary_digits() -> None:
    values = [BIG, BIG + 4096, BIG + 8192]
    made = SmallAverage(model([0])).round([model([value]) for value in values])
    assert abs(int(made["ids"][0]) - (BIG + 4096)) <= 2**60 // 2**53


def test_only_the_numbers_that_differ_lose_digits() -> None:
    made = SmallAverage(model([0, 0])).round([model([BIG, 1]), model([BIG, BIG]), model([BIG, 7])])
    assert int(made["ids"][0]) == BIG
    assert abs(int(made["ids"][1]) - (BIG + 8) // 3) <= 2**60 // 2**53


@pytest.mark.parametrize("scale", [Scale(group=3, grouped_bytes=0), Scale(sharded_bytes=8)])
def test_numbers_that_nobody_changed_stay_in_groups_and_shards(scale: Scale) -> None:
    initial = {**INITIAL, "ids": np.array([BIG])}
    fleet = SmallFleet(7, scale=scale, initial=initial, rounds=1)
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names:
        fleet.work()
        data = fleet.upload(device, opened, encode(initial))
        fleet.say(device, "complete", fleet.completion(opened, data, device))  # type: ignore[arg-type]
        fleet.remind()
        fleet.work()
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.state is State.CLOSED
    assert int(fleet.model(1)["ids"][0]) == BIG
