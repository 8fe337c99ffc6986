"""Every wrong input is reported by its field, its value, and what the field accepts."""

import math
from typing import Annotated, Any, Literal

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from msgspec import Meta, Struct

from components.runtime.component_errors import ConfigurationError
from components.trainer.trainer_configuration import MERGED, Configuration, parse_configuration
from components.trainer.training import TrainingSettings
from fedgrass.federation.conversion import LONGEST_VALUE, convert, nearest, shown, words
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection import SELECTIONS, strategy
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings


class Inner(Struct, forbid_unknown_fields=True):
    depth: Annotated[int, Meta(ge=1)] = 1


class Everything(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A field of every kind that settings have, with one nested struct."""

    needed: str
    count: Annotated[int, Meta(ge=1, le=9)] | None = None
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    choice: Literal["left", "right"] = "left"
    yes: bool = False
    names: list[Annotated[str, Meta(pattern="^[a-z]+$", description="small letters")]] = []
    table: dict[Annotated[str, Meta(pattern="^[a-z]+$", description="small letters")], dict[str, int]] = {}
    inner: Inner = msgspec.field(default_factory=Inner)


def refusal(values: object) -> str:
    with pytest.raises(SettingsError) as refused:
        convert(values, Everything, whole="the plan", part="the plan's ")
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"count": 0}, "the plan's count is 0: it takes a whole number from 1 to 9"),
        ({"count": 10**5000}, "the plan's count is a number of thousands of digits: it takes"),
        ({"share": 1}, "the plan's share is 1: it takes a number above 0 and below 1"),
        ({"choice": "up"}, "the plan's choice is 'up': it takes one of: left, right"),
        ({"yes": 1}, "the plan's yes is 1: it takes true or false"),
        ({"names": ["a", "B"]}, "the plan's names[1] is 'B': it takes small letters"),
        ({"names": "a"}, "the plan's names is 'a': it takes a list, each entry small letters"),
        ({"table": {"A": {}}}, "the plan's table has the name 'A': a name takes small letters"),
        ({"table": {"a": {"two words": None}}}, "the plan's table.a.'two words' is null: it takes a whole"),
        ({"inner": {"depth": 0}}, "the plan's inner.depth is 0: it takes a whole number of at least 1"),
        ({"inner": {"dept": 0}}, "'dept' is not one of the plan's inner: did you mean 'depth'?"),
        ({"counts": 5}, "'counts' is not one of the plan: did you mean 'count'?"),
        ({"zebra": 5}, "'zebra' is not one of the plan: there are: needed, count, share"),
        ({7: 5}, "7 is not one of the plan: there are: needed"),
        ({"needed": None}, "the plan's needed is null: it takes a text"),
    ],
)
def test_the_field_the_value_and_what_it_takes_are_named(value: dict[Any, Any], said: str) -> None:
    assert said in refusal({"needed": "here", **value})


def test_what_is_missing_is_named_with_what_it_takes() -> None:
    assert refusal({"count": 1}) == "the plan's needed is missing: it takes a text"


@pytest.mark.parametrize("values", [None, 5, "text", [], [{}]])
def test_what_is_not_an_object_is_refused_as_a_whole(values: object) -> None:
    assert (
        refusal(values) == f"{shown(values)} cannot be the plan: that is an object of names and their values"
    )


def test_a_list_in_itself_is_refused_and_not_followed_endlessly() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "the plan's needed is [[" in refusal({"needed": endless})


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists))
def test_a_value_is_shown_in_one_short_line(value: object) -> None:
    assert "\n" not in shown(value)
    assert len(shown(value)) <= 7 * 7 * 7 * LONGEST_VALUE
    shown(value).encode()  # no lone surrogate, which no terminal can print


def test_with_no_known_names_there_is_no_way_out() -> None:
    assert nearest("seed", []) == "there are none"


NO_WORD_FOR_IT = "a value of the kind"


@pytest.mark.parametrize(
    "kind", [RunSettings, Configuration, TrainingSettings, *map(type, SELECTIONS.values())]
)
def test_every_field_that_people_may_set_has_words_for_what_it_takes(kind: type[Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        assert NO_WORD_FOR_IT not in words(field.type), field.name


# Values of each kind that no field accepts, or only a few do.
odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0.5, 10**30, math.nan, math.inf, "", "Two Words!", "x" * 5000, [], [[]], ["a b"], {}]
) | st.dictionaries(st.text(max_size=5), st.none() | st.lists(st.none()) | st.just(math.nan), min_size=1)


@given(st.sampled_from(RunSettings.__struct_fields__), odd_values)
def test_any_bad_setting_of_a_run_is_named_with_its_value(field: str, value: Any) -> None:
    try:
        parse_settings({"task": "digits", field: value})
    except SettingsError as error:
        _check(str(error), field, value)
    else:
        assert _fits(value, RunSettings, field), f"the field {field} was accepted as {value!r}"


@given(st.sampled_from(Configuration.__struct_fields__), odd_values)
def test_any_bad_key_of_a_configuration_is_named_with_its_value(field: str, value: Any) -> None:
    try:
        parse_configuration({field: value})
    except ConfigurationError as error:
        _check(str(error), field, value)
    else:
        if isinstance(value, dict) and field in MERGED:  # a null deletes the entry: Greengrass merges them
            value = {name: entry for name, entry in value.items() if entry is not None}
        assert _fits(value, Configuration, field, strict=False), f"{field} was accepted as {value!r}"


@given(st.sampled_from(sorted(SELECTIONS)), st.data(), odd_values)
def test_any_bad_option_of_a_selection_is_named_with_its_value(
    name: str, data: st.DataObject, value: Any
) -> None:
    known = SELECTIONS[name].__struct_fields__
    option = data.draw(st.sampled_from(known) if known else st.just("seed"))
    try:
        strategy(name, {option: value})
    except SettingsError as error:
        _check(str(error), option, value if known else option)
    else:
        assert known, f"{name} has no option, but {option} was accepted"
        assert _fits(value, type(SELECTIONS[name]), option), f"{option} was accepted as {value!r}"


def _fits(value: Any, kind: type[Struct], name: str, *, strict: bool = True) -> bool:
    """Return whether msgspec accepts a value for a field; other values must be refused."""
    annotation = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    try:
        msgspec.convert(value, annotation, strict=strict)
    except msgspec.ValidationError:
        return False
    return True


def _check(said: str, field: str, value: Any) -> None:
    """Check that a refusal is one line with the field, and with the value or the wrong part of it."""
    assert field in said
    assert "\n" not in said
    assert "Expected `" not in said, "msgspec's own words"
    parts = [value, float(value)] if isinstance(value, int) else [value]
    if isinstance(value, dict):
        parts += [*value, *value.values()]
    if isinstance(value, list):
        parts += value
    placed = field == "where" and "at character" in said  # more precise than the whole condition
    assert placed or any(shown(part) in said for part in parts), (said, value)
