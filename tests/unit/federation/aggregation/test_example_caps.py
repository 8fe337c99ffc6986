"""The weight of a device: a claim of 2^53 examples does not dominate the mean, and is reported by name."""

from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_functions.recovery import manifests
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.runs.history import summarize
from fedgrass.federation.aggregation.means import example_cap
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.settings_parser import parse_settings
from tests.fakes.small_average import AVERAGING, average
from tests.fakes.small_fleet import RUN, SmallFleet

HUGE = 2**53
IN_GROUPS = Scale(group=3, grouped_bytes=0)
IN_SHARDS = Scale(sharded_bytes=8)


@pytest.mark.parametrize(
    ("claims", "multiple", "cap"),
    [
        ([100, 100, 100], 3, 300),
        ([10, 30], 3, 30),  # the lower median of an even number
        ([1, 2, 3, HUGE], 3, 6),
        ([5, HUGE], 3, 15),
        ([7, 7, HUGE, HUGE, HUGE], 2, HUGE),  # a majority decides
        ([0, 0, 8], 2.5, 20),
        ([HUGE], 3, HUGE),
        ([3], 1, 3),
    ],
)
def test_a_claim_counts_up_to_a_multiple_of_the_lower_median(
    claims: list[int], multiple: float, cap: int
) -> None:
    assert example_cap(claims, multiple) == cap


@pytest.mark.parametrize(("claims", "multiple"), [([1, HUGE], 0), ([], 3), ([0, 0], 3)])
def test_without_a_multiple_or_claims_nothing_is_capped(claims: list[int], multiple: float) -> None:
    assert example_cap(claims, multiple) == float("inf")


def moved(name: str, examples: list[int], **settings: Any) -> float:
    """Return how far ten devices that agree move a model towards 1, with one liar that wants -1."""
    start = {"w": np.zeros(8, np.float32)}
    honest, liar = {"w": np.ones(8, np.float32)}, {"w": np.full(8, -1, np.float32)}
    metrics = [{"loss": 0.5}] * 10
    made = average(
        [*[honest] * 9, liar], start, aggregation=name, examples=examples, metrics=metrics, **settings
    )
    return float(made["w"].mean())


@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_claim_of_all_examples_does_not_turn_the_model_round(name: str, clip: float | None) -> None:
    assert moved(name, [100] * 9 + [HUGE], clip_norm=clip) > 0


@pytest.mark.parametrize("clip", [None, 2.0])
def test_without_the_cap_it_does(clip: float | None) -> None:
    assert moved("weighted_mean", [100] * 9 + [HUGE], clip_norm=clip, examples_cap=0) < -0.5


def test_claims_within_the_multiple_count_as_they_are() -> None:
    examples = [100] * 9 + [300]
    assert moved("weighted_mean", examples) == pytest.approx((900 - 300) / 1200)


def test_a_strategy_of_the_users_own_sees_what_counts_and_not_the_claim() -> None:
    mean = average(
        [{"w": np.zeros(1, np.float32)}, {"w": np.ones(1, np.float32)}],
        {"w": np.zeros(1, np.float32)},
        aggregation="tests.own_strategies:GeometricShares",
        aggregation_options={"power": 1.0},
        examples=[10, HUGE],
    )
    assert mean["w"].tolist() == [0.75]


@pytest.mark.parametrize("scale", [None, IN_GROUPS, IN_SHARDS], ids=["by one", "in groups", "in shards"])
def test_the_round_says_whom_the_cap_hit(scale: Scale | None) -> None:
    fleet = SmallFleet(7, scale=scale, rounds=1)
    fleet.start()
    opened = fleet.newest()
    for place, device in enumerate(fleet.names):
        fleet.work()
        fleet.reply(device, opened, value=float(place == 5), examples=HUGE if place == 5 else 10)
        fleet.remind()
        fleet.work()
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.example_cap, closed.capped) == (State.CLOSED, 30, 1)
    assert float(fleet.model(1)["weight"][0, 0]) == pytest.approx(30 / 90)
    text = "claims 9,007,199,254,740,992 examples and counts as 30, 3 times the round's median (examples_cap)"
    assert text in fleet.told_of("thing-5")
    (figures,) = [change.figures for change in fleet.told() if change.figures]
    assert figures.capped == 1
    kept = manifests.round_of(fleet.cloud, RUN, 1)
    assert kept is not None
    assert (kept.round.example_cap, kept.round.capped) == (30, 1)
    line = summarize(RoundRecord(closed, list(fleet.rounds.participants(closed))), {})
    assert (line["example_cap"], line["capped"]) == (30, 1)
    assert [part["counted_examples"] for part in line["devices"]] == [10] * 5 + [30, 10]


def test_a_cap_of_a_round_in_groups_is_that_of_its_first_group() -> None:
    fleet = SmallFleet(7, scale=IN_GROUPS, rounds=1)
    fleet.start()
    opened = fleet.newest()
    claims = [10, 20, 40, HUGE, 900, 800, 700]
    for device, claim in zip(fleet.names, claims, strict=True):
        fleet.work()
        fleet.reply(device, opened, value=float(claim == HUGE), examples=claim)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.example_cap) == (State.CLOSED, 60)
    assert float(fleet.model(1)["weight"][0, 0]) == pytest.approx(60 / (10 + 20 + 40 + 4 * 60))


def test_a_round_without_liars_names_nobody() -> None:
    fleet = SmallFleet(3, rounds=1)
    fleet.start()
    for device, examples in zip(fleet.names, (10, 20, 30), strict=True):
        fleet.reply(device, examples=examples)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.capped == 0
    assert not [change for change in fleet.told() if "claims" in change.text]


def test_examples_evaluated_are_capped_in_the_means_of_metrics() -> None:
    fleet = SmallFleet(5, rounds=1)
    fleet.start()
    for place, device in enumerate(fleet.names):
        lie = place == 4
        fleet.reply(
            device,
            examples=10,
            examples_evaluated=HUGE if lie else 10,
            metrics={"accuracy": 1.0 if lie else 0.1},
            train_metrics={"train_loss": 0.5},
        )
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.metrics == pytest.approx({"accuracy": (4 * 0.1 + 3) / 7, "train_loss": 0.5})
    assert closed.capped == 1
    assert "evaluated examples" in " ".join(fleet.told_of("thing-4"))


@pytest.mark.parametrize("value", [0.5, -1, float("nan"), float("inf"), "3", 2_000_000])
def test_a_cap_that_cannot_be_meant_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="examples_cap"):
        parse_settings({"task": "digits", "examples_cap": value})


def test_a_round_that_an_older_averager_stored_has_no_cap() -> None:
    fleet = SmallFleet(1)
    fleet.start()
    stored: dict[str, Any] = msgspec.to_builtins(fleet.newest())
    for field in ("example_cap", "capped", "judged"):
        del stored[field]
    older = msgspec.convert(stored, type(fleet.newest()))
    assert (older.example_cap, older.capped, older.judged) == (0, 0, {})
