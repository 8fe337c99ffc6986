"""A global model that is far worse than the local models it was made of is detected, with likely causes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.aggregation.collapsed_average import Evidence, find_collapse, likely_causes
from fedgrass.federation.rounds import Round, State
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings


def a_round(metrics: dict[str, float], good: int = 3) -> Round:
    return Round(
        run="run-1",
        number=2,
        attempt=1,
        state=State.CLOSED,
        asked=good,
        needed=good,
        minimum=1,
        opened_at=0,
        deadline_at=60_000,
        base=1,
        base_sha256="",
        base_bytes=0,
        replied=good,
        metrics=metrics,
    )


def settings(**more: object) -> RunSettings:
    return parse_settings({"task": "digits", **more})


def collapsed(before: float, local: float, value: float, metric: str = "accuracy", **more: object) -> bool:
    made = a_round({metric: before, f"local_{metric}": local})
    return find_collapse(made, {metric: value}, settings(**more)) is not None


@pytest.mark.parametrize(
    ("before", "local", "value", "expected"),
    [
        (0.10, 0.80, 0.11, True),  # the first average lost all that was learned
        (0.95, 0.97, 0.30, True),  # a later one lost what the fleet had
        (0.10, 0.80, 0.40, False),  # it lost half, but improved
        (0.80, 0.95, 0.80, False),  # a plateau with personal data
        (0.10, 0.60, 0.65, False),
        (0.50, 0.45, 0.44, False),  # training itself made it worse
        (0.10, 0.00, 0.00, False),
    ],
)
def test_an_accuracy_collapses_if_little_is_left_and_nothing_gained(
    before: float, local: float, value: float, *, expected: bool
) -> None:
    assert collapsed(before, local, value) is expected


@pytest.mark.parametrize(
    ("before", "local", "value", "expected"),
    [
        (2.3, 0.5, 40.0, True),
        (2.3, 0.5, 2.3, True),
        (2.3, 0.5, 1.6, False),
        (0.02, 0.01, 0.021, False),
        (2, -1, 9, False),
    ],
)
def test_a_loss_collapses_if_it_is_several_times_the_local_one(
    before: float, local: float, value: float, *, expected: bool
) -> None:
    assert collapsed(before, local, value, "loss") is expected


def test_the_runs_target_decides_in_its_own_direction() -> None:
    assert collapsed(9, 3, 12, "mae", target_metric="mae", lower_is_better=True)
    assert not collapsed(3, 9, 12, "mae", target_metric="mae")
    assert not collapsed(9, 3, 12, "mae")  # of an unknown metric no direction is known


def test_accuracy_decides_before_loss() -> None:
    made = a_round({"accuracy": 0.5, "local_accuracy": 0.9, "loss": 1.0, "local_loss": 0.1})
    assert find_collapse(made, {"accuracy": 0.85, "loss": 5.0}, settings()) is None


def test_the_average_of_a_single_update_cannot_collapse() -> None:
    made = a_round({"accuracy": 0.1, "local_accuracy": 0.8}, good=1)
    assert find_collapse(made, {"accuracy": 0.1}, settings()) is None


@pytest.mark.parametrize("missing", ["before", "local", "value"])
def test_without_one_of_the_three_values_nothing_is_concluded(missing: str) -> None:
    values = {"before": 0.1, "local": 0.8, "value": 0.1} | {missing: None}
    names = {"accuracy": values["before"], "local_accuracy": values["local"]}
    made = a_round({name: value for name, value in names.items() if value is not None})
    after = {} if values["value"] is None else {"accuracy": values["value"]}
    assert find_collapse(made, after, settings()) is None


def test_the_warning_names_model_metric_and_all_three_values() -> None:
    made = a_round({"accuracy": 0.62, "local_accuracy": 0.83})
    text = str(find_collapse(made, {"accuracy": 0.11}, settings()))
    assert text == (
        "model 2 is far worse than the local models that it was made of: accuracy 0.11, where these had 0.83"
        " (and what they started from 0.62)"
    )


SHARE = st.floats(0, 1)


@given(SHARE, SHARE, SHARE)
def test_a_model_at_least_as_good_as_the_local_ones_never_collapsed(
    before: float, local: float, more: float
) -> None:
    assert not collapsed(before, local, local + (1 - local) * more)


def evidence(changes: Floats, model_norm: float = 10.0, **more: object) -> Evidence:
    return Evidence(
        devices=[f"press-{place}" for place in range(len(changes))],
        norms=np.linalg.norm(changes, axis=1),
        products=changes @ changes.T,
        model_norm=model_norm,
        **more,  # type: ignore[arg-type]
    )


ALIKE = np.ones((4, 5)) + np.arange(20).reshape(4, 5) / 100


def test_one_long_change_is_named_with_its_device() -> None:
    changes = ALIKE.copy()
    changes[2] *= 50
    (cause,) = likely_causes(evidence(changes))
    assert cause.startswith("the scale of single devices (the change of press-2 is up to 5")


def test_changes_longer_than_the_model_suggest_the_learning_rate() -> None:
    (cause,) = likely_causes(evidence(ALIKE, model_norm=1.0))
    assert cause.startswith("the learning rate (the changes are 2.4 times as long as the model itself")


def test_changes_in_different_directions_suggest_label_skew() -> None:
    (cause,) = likely_causes(evidence(np.eye(4, 5)))
    assert "mean cosine 0.00" in cause
    assert cause.startswith("label skew")


def test_running_statistics_suggest_batch_normalization() -> None:
    names = [f"bn{place}.running_mean" for place in range(5)]
    (cause,) = likely_causes(evidence(ALIKE, statistics=names))
    assert "bn0.running_mean, bn1.running_mean, bn2.running_mean and 2 more" in cause


def test_without_a_sign_of_a_cause_the_advice_is_general() -> None:
    assert likely_causes(evidence(ALIKE)) == likely_causes(Evidence())
    assert likely_causes(Evidence())[0].startswith("none stands out")


@pytest.mark.parametrize(
    "changes", [np.zeros((3, 2)), np.zeros((0, 2)), np.array([[0.0, 0], [0, 0], [9, 9]])]
)
def test_changes_of_length_zero_are_measured_too(changes: Floats) -> None:
    assert likely_causes(evidence(changes))
