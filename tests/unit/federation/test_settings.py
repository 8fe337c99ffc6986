"""The settings of a run: each mistake is reported by its field and what the field accepts."""

import math
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings

GOOD: dict[str, Any] = {"task": "digits"}


def test_only_the_task_is_required() -> None:
    assert parse_settings(GOOD) == RunSettings(task="digits")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("task", "Digits!", "task is 'Digits!': it takes 1 to 32 lower-case letters"),
        ("task", "", "task is '': it takes 1 to 32"),
        ("task", 5, "task is 5: it takes 1 to 32 lower-case letters"),
        ("rounds", 0, "rounds is 0: it takes a whole number from 1 to 100,000"),
        ("rounds", 100_001, "rounds is 100001: it takes a whole number from 1 to 100,000"),
        ("rounds", "5", "rounds is '5': it takes a whole number"),
        ("rounds", 2.5, "rounds is 2.5: it takes a whole number"),
        ("rounds", True, "rounds is true: it takes a whole number"),
        ("selection", "fastest-ever", "selection is 'fastest-ever': it takes one of: all, fastest"),
        ("aggregation", "median-ish", "it takes one of: fedadagrad, fedadam"),
        ("fraction", 0, "fraction is 0: it takes a number above 0 and at most 1"),
        ("fraction", 1.1, "fraction is 1.1: it takes a number above 0 and at most 1"),
        ("fraction", math.nan, "fraction is nan: it takes a number"),
        ("threshold", 0, "above 0 and at most 1"),
        ("threshold", math.inf, "threshold is inf"),
        ("minimum_replies", 0, "from 1 to 1,000,000"),
        ("minimum_replies", 10**30, "from 1 to 1,000,000"),
        ("deadline_seconds", 4, "from 5 to 604,800"),
        ("deadline_seconds", 10**9, "from 5 to 604,800"),
        ("on_abandoned", "give up", "is 'give up': it takes one of: fail, retry"),
        ("attempts", 0, "from 1 to 100"),
        ("attempts", 101, "from 1 to 100"),
        ("seen_within_seconds", 0, "from 1 to 31,622,400"),
        ("seen_within_seconds", 10**30, "from 1 to 31,622,400"),
        (
            "training",
            {"epochs": None},
            "training.epochs is null: it takes a text, a number, or true or false",
        ),
        ("training", {"epochs": [1]}, "training.epochs is [1]"),
        ("training", {f"option-{number}": 1 for number in range(25)}, "at most 24 values"),
        ("training", {"rate": math.nan}, "training.rate is nan: it takes a finite number"),
        ("training", {"rate": math.inf}, "training.rate is inf: it takes a finite number"),
        (
            "training",
            {"text": "\ud800"},
            r"training.text is '\ud800': it takes a finite number, a Unicode text",
        ),
        ("training", {"text": "x" * 2_901}, "at most 2,900 are allowed"),
        ("round", 5, "'round' is not one of the run's settings: did you mean 'rounds'?"),
        ("deadline_seconds", -1, "from 5 to 604,800"),
        ("count", 0, "from 1 to 1,000,000"),
        ("count", 2.5, "count is 2.5: it takes a whole number from 1"),
        ("over_selection", 0.9, "over_selection is 0.9: it takes a number from 1 to 10"),
        ("over_selection", 11, "a number from 1 to 10"),
        ("over_selection", math.nan, "over_selection is nan"),
        ("threshold_count", 0, "from 1 to 1,000,000"),
        ("threshold_count", "7", "threshold_count is '7': it takes a whole number"),
        ("accept_seconds", -1, "from 0 to 900"),
        ("accept_seconds", 901, "from 0 to 900"),
        ("schedule", "hourly", "is 'hourly': it takes one of: adaptive, at_once, by_hand, every"),
        ("schedule", "every", "set every_minutes to the number of minutes"),
        ("every_minutes", -1, "a number from 0 to 10,080"),
        ("every_minutes", math.inf, "a number from 0 to 10,080"),
        ("target_metric", "x" * 65, "a text of at most 64 characters"),
        ("target_value", 0.9, "name the metric in target_metric, such as 'accuracy'"),
        ("target_value", 0.0, "target_value is 0.0: name the metric in target_metric"),
        ("target_value", math.nan, "target_value is nan: it takes a finite number"),
        ("target_value", "high", "target_value is 'high': it takes a number"),
        ("patience", 3, "patience is 3: name the metric in target_metric"),
        ("patience", -1, "a whole number from 0 to 100,000"),
        ("smallest_improvement", -0.1, "a number of at least 0"),
        ("smallest_improvement", math.inf, "smallest_improvement is inf: it takes a finite number"),
        ("lower_is_better", "yes", "lower_is_better is 'yes': it takes true or false"),
        ("training_by_round", {"0": {}}, "training_by_round has the round '0'; rounds are numbered from 1"),
        ("training_by_round", {"-1": {}}, "has the round '-1'"),
        ("training_by_round", {"two": {}}, "has the round 'two'"),
        ("training_by_round", {"1.5": {}}, "has the round '1.5'"),
        ("training_by_round", {"٣": {}}, "has the round '٣'"),
        ("training_by_round", {"9" * 5000: {}}, "rounds are numbered from 1"),
        ("training_by_round", {"2": {"epochs": None}}, "training_by_round.2.epochs is null"),
        ("training_by_round", {"2": 5}, "training_by_round.2 is 5: it takes an object of at most 24"),
        ("training_by_round", [], "training_by_round is []: it takes an object"),
    ],
)
def test_a_bad_field_is_refused_by_its_name_and_with_what_it_may_be(
    field: str, value: Any, said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings({**GOOD, field: value})
    assert field in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"selection": "random", "fraction": 0.5, "count": 5},
            "both fraction 0.5 and count 5: give one of them",
        ),
        ({"threshold": 0.5, "threshold_count": 5}, "both threshold 0.5 and threshold_count 5: give one"),
        (
            {"fraction": 0.5},
            "fraction is 0.5, but its selection 'all' asks every device: leave fraction out, or choose",
        ),
        ({"count": 5}, "count is 5, but its selection 'all' asks every device"),
        (
            {"selection": "random", "count": 5, "threshold_count": 6},
            "threshold_count is 6, above its cohort of 5 (count)",
        ),
        (
            {"selection": "random", "count": 5, "minimum_replies": 6},
            "minimum_replies is 6, above its cohort of 5 (count)",
        ),
        ({"schedule": "every", "every_minutes": 0}, "set every_minutes to the number of minutes"),
        (
            {"training": {"text": "x" * 2_000}, "training_by_round": {"2": {"t": "y" * 1_500}}},
            "JSON in round 2; at most 2,900 are",
        ),
        (
            {"aggregation": "scaffold", "training": {"momentum": 0.9}},
            "training.momentum is 0.9; the aggregation 'scaffold' needs plain gradient steps: leave it out",
        ),
        (
            {"aggregation": "scaffold", "training_by_round": {"3": {"patience_epochs": 2}}},
            "training_by_round.3.patience_epochs is 2; the aggregation 'scaffold' needs plain",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_their_names(
    values: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings({**GOOD, **values})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"selection": "random", "count": 5, "threshold_count": 5, "minimum_replies": 5},
        {"selection": "random", "fraction": 0.5, "threshold_count": 5},
        {"schedule": "every", "every_minutes": 0.5},
        {"schedule": "adaptive"},
        {"target_metric": "loss", "target_value": 0.0, "lower_is_better": True},
        {"target_metric": "accuracy", "patience": 3, "smallest_improvement": 0.01},
        {"training_by_round": {"1": {"epochs": 1}, "100000": {"epochs": 2}}},
        {"accept_seconds": 0},
        {"aggregation": "scaffold", "training": {"momentum": 0.0, "patience_epochs": 0, "epochs": 2}},
        {"aggregation": "fedavgm", "training": {"momentum": 0.9}},
    ],
)
def test_settings_that_fit_each_other_are_taken(values: dict[str, Any]) -> None:
    settings = parse_settings({**GOOD, **values})
    assert {name: getattr(settings, name) for name in values} == values


@given(st.integers(1, 10**6), st.floats(1, 10), st.integers(1, 10**6))
def test_over_selection_asks_at_least_the_wanted_and_at_most_all(
    wanted: int, over_selection: float, more: int
) -> None:
    candidates = wanted + more - 1
    asked = RunSettings(task="t", over_selection=over_selection).asked(wanted, candidates)
    assert wanted <= asked <= candidates


@pytest.mark.parametrize("values", [{}, [], None, "digits", 5])
def test_settings_that_are_not_an_object_or_name_no_task_are_refused(values: Any) -> None:
    with pytest.raises(SettingsError, match=r"the run's task is missing|cannot be the run's settings"):
        parse_settings(values)


odd_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers())
)
odd_training = st.dictionaries(st.text(max_size=5), odd_values, max_size=3)


@given(st.sampled_from(RunSettings.__struct_fields__), odd_values | odd_training)
def test_any_value_of_any_field_is_settings_or_refused(field: str, value: Any) -> None:
    try:
        settings = parse_settings({**GOOD, field: value})
    except SettingsError as error:
        assert field in str(error)  # noqa: PT017 - any other exception fails the test by itself
    else:
        assert getattr(settings, field) == value
        assert type(getattr(settings, field)) in ALLOWED_TYPES[field]


def _types(annotation: Any) -> set[type]:
    """Return the Python types of the values that a field may have."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _types(arguments[0])
    if get_origin(annotation) is Literal:
        return {type(argument) for argument in arguments}
    if get_origin(annotation) in {Union, UnionType}:
        return set().union(*map(_types, arguments))
    return {get_origin(annotation) or annotation}


ALLOWED_TYPES = {field.name: _types(field.type) for field in msgspec.structs.fields(RunSettings)}


def test_the_types_of_the_fields_are_known() -> None:
    assert ALLOWED_TYPES["rounds"] == {int}
    assert ALLOWED_TYPES["threshold"] == {float, NoneType}
    assert ALLOWED_TYPES["held_out"] == {list}
    assert ALLOWED_TYPES["schedule"] == {str}


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_replies_needed_can_always_come(threshold: float, minimum: int, asked: int) -> None:
    needed = RunSettings(task="t", threshold=threshold, minimum_replies=minimum).replies_needed(asked)
    assert 1 <= needed <= asked
    assert needed >= min(asked, minimum)


@pytest.mark.parametrize(
    ("threshold", "asked", "needed"),
    [(1.0, 7, 7), (0.7, 10, 7), (0.1, 30, 3), (0.29, 100, 29), (0.5, 5, 3), (0.01, 3, 1)],
)
def test_a_threshold_is_rounded_up_but_not_by_the_error_of_a_float(
    threshold: float, asked: int, needed: int
) -> None:
    assert RunSettings(task="t", threshold=threshold).replies_needed(asked) == needed


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 10**6))
def test_a_cohort_is_never_empty_and_never_more_than_there_are(fraction: float, candidates: int) -> None:
    settings = RunSettings(task="t", selection="random", fraction=fraction)
    assert 1 <= settings.cohort(candidates) <= candidates


def test_a_cohort_of_all_ignores_the_fraction() -> None:
    assert RunSettings(task="t", fraction=0.1).cohort(10) == 10
    assert RunSettings(task="t", fraction=0.1, selection="random").cohort(15) == 1
