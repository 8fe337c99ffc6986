"""Key conditions are parsed once per query, with the results of MiniStack's own evaluation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ministack.services import dynamodb

from fedgrass.local.aws.key_conditions import parsing_once, predicate_of

_EVALUATE: Any = dynamodb._evaluate_condition
_NAMES = {"#run": "run", "#item": "item"}
_TEXTS = st.text(alphabet="ab/~é\U0001f600", max_size=3)
_CONDITIONS = st.sampled_from(
    [
        "#run = :run",
        "#run = :run AND begins_with(#item, :first)",
        "#run = :run AND #item BETWEEN :first AND :last",
    ]
)


def _values(run: str, first: str, last: str) -> dict[str, Any]:
    low, high = sorted((first, last))
    return {":run": {"S": run}, ":first": {"S": low}, ":last": {"S": high}}


@given(condition=_CONDITIONS, run=_TEXTS, item=_TEXTS, wanted=_TEXTS, first=_TEXTS, last=_TEXTS)
def test_a_row_meets_a_condition_if_it_does_for_ministack(  # noqa: PLR0913, PLR0917 - drawn
    condition: str, run: str, item: str, wanted: str, first: str, last: str
) -> None:
    row, values = {"run": {"S": run}, "item": {"S": item}}, _values(wanted, first, last)
    predicate = predicate_of(condition, values, _NAMES)
    assert predicate is not None
    assert predicate(row) == bool(_EVALUATE(condition, row, values, _NAMES, slot="KeyConditionExpression"))


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        ("#run = :run AND #item < :first", _values("a", "b", "c")),
        ("#run = :run OR #item = :first", _values("a", "b", "c")),
        ("#run = :run", {":run": {"N": "1"}}),
        ("#run = :other", {":run": {"S": "a"}}),
        ("", {}),
    ],
)
def test_other_conditions_are_left_to_ministack(condition: str, values: dict[str, Any]) -> None:
    assert predicate_of(condition, values, _NAMES) is None


def test_only_the_first_row_of_a_query_is_parsed() -> None:
    parsed: list[dict[str, Any]] = []

    def evaluate(_expression: str, row: dict[str, Any], *_: object, **__: object) -> bool:
        parsed.append(row)
        return True

    quickly = parsing_once(evaluate)
    values = _values("a", "b", "b")
    rows = [{"run": {"S": "a"}, "item": {"S": text}} for text in ("b", "b", "c")]
    found = [
        quickly(
            "#run = :run AND #item BETWEEN :first AND :last",
            row,
            values,
            _NAMES,
            slot="KeyConditionExpression",
        )
        for row in rows
    ]
    assert found == [True, True, False]
    assert parsed == rows[:1]
    quickly("#run = :run", rows[1], dict(values), _NAMES, slot="KeyConditionExpression")  # another query
    quickly("#run = :run", rows[2], values, _NAMES, slot="FilterExpression")
    assert parsed == rows


def test_an_invalid_condition_is_refused_as_before() -> None:
    quickly = parsing_once(_EVALUATE)
    with pytest.raises(ValueError, match="KeyConditionExpression"):
        quickly(
            "#run = = :run",
            {"run": {"S": "a"}},
            _values("a", "b", "c"),
            _NAMES,
            slot="KeyConditionExpression",
        )
