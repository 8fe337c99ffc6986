"""Settings of a run on the command line and in files of TOML or JSON."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console.runs.given_settings import given_settings, parse_run_and_round
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings_parser import parse_settings

SETTINGS: dict[str, Any] = {
    "task": "digits",
    "rounds": 20,
    "selection": "random",
    "fraction": 0.5,
    "where": 'room == "cellar"',
    "training": {"lr": 0.1, "epochs": 2},
    "training_by_round": {"10": {"lr": 0.01}},
    "held_out": ["press-1", "press-2"],
}


@pytest.mark.parametrize("name", ["run.toml", "run.json", "run.txt", "run"])
@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_file_of_settings_is_toml_or_json_by_its_name_or_else_by_its_beginning(
    tmp_path: Path, name: str, form: str
) -> None:
    if name.endswith((".toml", ".json")) and not name.endswith(form):
        return
    file = tmp_path / name
    file.write_text(tomli_w.dumps(SETTINGS) if form == "toml" else json.dumps(SETTINGS, indent=2))
    assert given_settings((), file) == SETTINGS
    assert parse_settings(given_settings((), file)).training_by_round == {"10": {"lr": 0.01}}


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('task = "digits"\nrounds = 3\n')
    assert given_settings(["rounds=9", "where=x == 1"], file) == {
        "task": "digits",
        "rounds": 9,
        "where": "x == 1",
    }


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.toml", "rounds = ", "is not valid TOML"),
        ("run.toml", "rounds 3", "it takes lines such as `rounds = 10`, or a JSON object"),
        ("run.toml", '{"rounds": 3}', "is not valid TOML"),
        ("run.json", "rounds = 3", "is not valid JSON"),
        ("run", "[1, 2]", "instead of a JSON object of settings"),
        ("run.toml", "x = " + "[" * 5000 + "]" * 5000, "is not valid TOML"),
    ],
)
def test_a_file_that_is_neither_is_refused_by_its_name(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"run(\.toml|\.json)?") as refused:
        given_settings((), file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('task = "digits"\nronds = 3', "'ronds' is not one of the run's settings: did you mean 'rounds'?"),
        ('task = "digits"\nwhere = 2026-11-30', "where is"),
        ('task = "digits"\nrounds = "3"', "rounds is '3'"),
    ],
)
def test_a_setting_that_is_misspelt_or_of_the_wrong_type_is_refused_by_name(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=said.replace("?", r"\?")):
        parse_settings(given_settings((), file))


@given(st.text(max_size=40), st.sampled_from(["", ".toml", ".json"]))
def test_any_text_as_a_file_is_settings_or_refused(text: str, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # hypothesis repeats the test with one tmp_path
        file = Path(folder) / f"run{ending}"
        file.write_text(text, encoding="utf-8")
        with contextlib.suppress(SettingsError):
            assert isinstance(given_settings((), file), dict)


@pytest.mark.parametrize("wrong", ["a", "a/", "/3", "a/b", "a/-1", "a b/3", "a/1e3", ""])
def test_a_model_to_continue_from_is_named_by_run_and_round(wrong: str) -> None:
    assert parse_run_and_round("night-1/12") == {"run": "night-1", "round": 12}
    with pytest.raises(SettingsError):
        parse_run_and_round(wrong)
