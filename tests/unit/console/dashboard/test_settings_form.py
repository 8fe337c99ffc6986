import pytest

from fedgrass.console.dashboard.pages.settings_form import Kind, settings_fields, settings_of
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings

FIELDS = settings_fields()
BY_NAME = {field.name: field for field in FIELDS}


def test_every_setting_has_a_field() -> None:
    assert set(BY_NAME) == set(RunSettings.__struct_fields__)


def test_the_usual_settings_come_first() -> None:
    assert [field.name for field in FIELDS[:3]] == ["task", "rounds", "selection"]
    assert not BY_NAME["staleness_slack"].first


def test_kinds_defaults_and_choices_follow_from_the_types() -> None:
    assert BY_NAME["task"].required
    assert (BY_NAME["rounds"].kind, BY_NAME["rounds"].default) == (Kind.WHOLE, "5")
    assert BY_NAME["rounds"].help == "from 1 to 100,000"
    assert BY_NAME["on_abandoned"].choices == ("fail", "retry")
    assert "power_of_choice" in BY_NAME["selection"].choices
    assert BY_NAME["selection"].kind is Kind.CHOICE
    assert BY_NAME["aggregation"].kind is Kind.TEXT  # also one of the user's own
    assert "trimmed_mean" in BY_NAME["aggregation"].choices
    assert BY_NAME["allow_partial"].kind is Kind.FLAG
    assert BY_NAME["fraction"].default == ""


def test_the_form_as_it_opens_gives_only_what_was_typed() -> None:
    given: dict[str, object] = {
        field.name: field.default == "true" if field.kind is Kind.FLAG else field.default for field in FIELDS
    }
    assert settings_of(FIELDS, {**given, "task": " digits "}) == {"task": "digits"}


def test_texts_become_values_of_their_kinds() -> None:
    given = {
        "task": "digits",
        "rounds": "7",
        "fraction": "0.5",
        "training": '{"epochs": 2}',
        "evaluate_last": False,
        "selection": "random",
    }
    settings = settings_of(FIELDS, given)
    assert settings == {**given, "rounds": 7, "fraction": 0.5, "training": {"epochs": 2}}
    assert parse_settings(settings).training == {"epochs": 2}


@pytest.mark.parametrize(
    ("name", "text", "wants"),
    [("rounds", "many", "a whole number"), ("fraction", "half", "a number"), ("training", "{", "JSON")],
)
def test_a_text_of_the_wrong_kind_is_refused_by_name(name: str, text: str, wants: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is .*{text[0]}.*: it takes {wants}"):
        settings_of(FIELDS, {"task": "digits", name: text})


def test_a_field_that_the_form_does_not_have_is_refused() -> None:
    with pytest.raises(SettingsError, match="no field 'rouns'"):
        settings_of(FIELDS, {"rouns": "3"})
