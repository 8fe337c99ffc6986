"""Which new models may replace the served one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.predictor.model_acceptance import reason_to_reject
from components.predictor.predictor_configuration import Configuration

NUMBERS = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"accuracy": 0.9, "loss": 0.1}, {"accuracy": 0.89, "loss": 9.0}, ""),
        ({"accuracy": 0.9}, {"accuracy": 0.8}, "its accuracy is 0.8, the served model's 0.9"),
        ({"loss": 0.1}, {"loss": 0.2}, "its loss is 0.2, the served model's 0.1: worse by more than 0.05"),
        ({"loss": 0.2}, {"loss": 0.1}, ""),
        ({"accuracy": 0.9}, {"loss": 0.1}, ""),  # nothing to compare
        ({}, {}, ""),
        ({"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.9, "loss": math.nan}, "its loss is nan"),
        ({"accuracy": math.nan}, {"accuracy": 0.9}, ""),  # not comparable with the served one
    ],
)
def test_accuracy_decides_or_else_loss(old: dict[str, float], new: dict[str, float], said: str) -> None:
    found = reason_to_reject(old, new, Configuration(worse_by=0.05))
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_a_metric_that_is_named_decides() -> None:
    old, new = {"accuracy": 0.9, "mae": 1.0}, {"accuracy": 0.1, "mae": 0.5}
    assert reason_to_reject(old, new, Configuration(metric="mae", lower_is_better=True)) == ""
    assert reason_to_reject(new, old, Configuration(metric="mae", lower_is_better=True)).startswith(
        "its mae is 1,"
    )
    assert reason_to_reject(old, new, Configuration(metric="mae")).startswith("its mae is 0.5,")


@given(old=NUMBERS, new=NUMBERS, bound=st.floats(0, 1e3), lower=st.booleans())
def test_a_model_is_refused_only_if_it_is_worse_by_more_than_the_bound(
    old: float, new: float, bound: float, *, lower: bool
) -> None:
    configuration = Configuration(worse_by=bound, metric="m", lower_is_better=lower)
    by = new - old if lower else old - new
    assert bool(reason_to_reject({"m": old}, {"m": new}, configuration)) == (by > bound)


@given(value=NUMBERS, bound=st.floats(0, 1e3))
def test_the_same_model_is_never_worse_than_itself(value: float, bound: float) -> None:
    for metric in ("accuracy", "loss"):
        assert reason_to_reject({metric: value}, {metric: value}, Configuration(worse_by=bound)) == ""
