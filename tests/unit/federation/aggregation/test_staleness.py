"""The weight of an update by the age of the model that its device started from."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.aggregation import STRATEGIES
from fedgrass.federation.aggregation.staleness import staleness_weight, why_not_buffered
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Participation, Round, State, staleness_of, started_from
from fedgrass.federation.rounds import update_of as object_of
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings


def buffered(**settings: Any) -> RunSettings:
    return parse_settings(
        {"task": "digits", "mode": "buffered", "buffer_size": 2, "in_flight": 4, **settings}
    )


@pytest.mark.parametrize("kind", ["constant", "polynomial", "hinge"])
def test_a_fresh_update_counts_in_full(kind: str) -> None:
    assert staleness_weight(buffered(staleness=kind), 0) == 1.0


def test_the_constant_weight_ignores_the_staleness() -> None:
    assert staleness_weight(buffered(staleness="constant"), 9) == 1.0


def test_the_polynomial_weight_is_that_of_the_paper() -> None:
    assert staleness_weight(buffered(staleness_exponent=0.5), 3) == 0.5
    assert staleness_weight(buffered(staleness_exponent=2.0), 1) == 0.25


def test_the_hinge_weight_is_that_of_the_paper() -> None:
    settings = buffered(staleness="hinge", staleness_exponent=10.0, staleness_slack=4)
    assert [staleness_weight(settings, age) for age in (4, 5, 6)] == [1.0, 1 / 11, 1 / 21]


@given(
    st.sampled_from(["constant", "polynomial", "hinge"]),
    st.floats(0, 100),
    st.integers(0, 1000),
    st.integers(-5, 1000),
)
def test_no_weight_is_above_one_and_none_grows_with_the_staleness(
    kind: str, exponent: float, slack: int, age: int
) -> None:
    settings = RunSettings(
        task="digits",
        staleness=kind,  # type: ignore[arg-type] # one of the three
        staleness_exponent=exponent,
        staleness_slack=slack,
    )
    here, older = staleness_weight(settings, age), staleness_weight(settings, age + 1)
    assert 0 <= older <= here <= 1
    assert math.isfinite(older)


def a_round(**fields: Any) -> Round:
    return Round(
        run="run-1",
        number=9,
        attempt=2,
        state=State.OPEN,
        asked=1,
        needed=1,
        minimum=1,
        opened_at=0,
        deadline_at=1,
        base=8,
        base_sha256="",
        base_bytes=0,
        **fields,
    )


def a_device(**fields: Any) -> Participant:
    return Participant(device="thing-1", state=Participation.REPLIED, announced_at=0, **fields)


def test_a_device_of_this_round_started_from_its_base_and_is_not_stale() -> None:
    assert started_from(a_round(), a_device()) == 8
    assert staleness_of(a_round(), a_device()) == 0
    assert object_of(a_round(), a_device()) == (9, 2)


def test_a_device_that_was_carried_over_is_as_stale_as_the_models_made_since() -> None:
    carried = a_device(from_round=6, from_attempt=1, base=5)
    assert started_from(a_round(), carried) == 5
    assert staleness_of(a_round(), carried) == 3
    assert object_of(a_round(), carried) == (6, 1)


@pytest.mark.parametrize("name", ["scaffold", "q_fedavg", "tree_bagging"])
def test_a_strategy_that_needs_one_model_is_refused_by_name_with_the_reason(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"'buffered'.*{name!r}.*started from one model \(.+\): choose"):
        buffered(aggregation=name)


def test_all_other_strategies_work() -> None:
    others = {name for name in STRATEGIES if name not in {"scaffold", "q_fedavg", "tree_bagging"}}
    assert [name for name in others if why_not_buffered(name, STRATEGIES[name])] == []
