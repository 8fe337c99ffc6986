"""An app's pyproject.toml is read as Flower reads it, and one of something else is refused by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.component_errors import ConfigurationError
from components.trainer.flower.app_configuration import parse_app_configuration, read_app_configuration
from tests.unit.device.flower.small_pyproject import PYPROJECT

COMPONENTS = '[tool.flwr.app.components]\nclientapp = "a.b:app"\n'


def test_components_and_configuration_are_read() -> None:
    found = parse_app_configuration(PYPROJECT)
    assert (found.clientapp, found.serverapp) == ("small.client_app:app", "small.server_app:app")
    assert found.config == {"num-server-rounds": 3, "learning-rate": 0.5, "optimizer.name": "sgd"}


def test_an_app_without_a_server_app_or_settings_is_one() -> None:
    found = parse_app_configuration(COMPONENTS)
    assert (found.clientapp, found.serverapp, found.config) == ("a.b:app", "", {})


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.text("abc-", min_size=1, max_size=3), values, min_size=1, max_size=3)


SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text("xyz ")


@given(nested(st.recursive(SCALARS, nested, max_leaves=6)))
def test_nested_settings_are_flattened_as_flower_does_it(config: dict[str, Any]) -> None:
    flower = pytest.importorskip("flwr.common.config")
    writer = pytest.importorskip("tomli_w")
    text = writer.dumps({"tool": {"flwr": {"app": {"components": {"clientapp": "a:b"}, "config": config}}}})
    assert parse_app_configuration(text).config == flower.flatten_dict(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f has no [tool.flwr.app]: it is not the project of a Flower app"),
        ("[tool.flwr]\napp = 3", "f has tool.flwr.app = 3, which has to be a table"),
        ("tool = []", "f has tool = [], which has to be a table"),
        (
            "[tool.flwr.app]\npublisher = 'x'",
            "f has no clientapp in [tool.flwr.app.components]: devices run the app's ClientApp",
        ),
        (
            "[tool.flwr.app]\ncomponents = 'x'",
            "f has tool.flwr.app.components = 'x', which has to be a table",
        ),
        (
            "[tool.flwr.app.components]\nclientapp = 'a.b'",
            "f has the clientapp 'a.b'; it is spelled package.module:attribute",
        ),
        (
            "[tool.flwr.app.components]\nclientapp = 'a.b:c; import os'",
            "f has the clientapp 'a.b:c; import os'; it is spelled package.module:attribute",
        ),
        (
            "[tool.flwr.app.components]\nclientapp = ['a:b']",
            "f has the clientapp ['a:b']; it is spelled package.module:attribute",
        ),
        (
            f"{COMPONENTS}serverapp = '../x:app'",
            "f has the serverapp '../x:app'; it is spelled package.module:attribute",
        ),
        (
            f"{COMPONENTS}[tool.flwr.app.config]\nlayers.sizes = [1, 2]",
            (
                "f has the setting layers.sizes = [1, 2] in [tool.flwr.app.config];"
                " it takes a number, a text, or true or false"
            ),
        ),
        (
            f"[tool.flwr.app]\nconfig = 1\n{COMPONENTS}",
            "f has tool.flwr.app.config = 1, which has to be a table",
        ),
    ],
)
def test_a_project_that_describes_no_app_is_refused_by_name(text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_app_configuration(text, "f")
    assert str(raised.value) == expected


def test_text_that_is_not_toml_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^f is not valid TOML: .*line 1"):
        parse_app_configuration("a = ]\n", "f")


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no pyproject.toml in .*: give the folder"):
        read_app_configuration(tmp_path)


def test_a_project_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"pyproject.toml cannot be read: Is a directory"):
        read_app_configuration(tmp_path)
    (tmp_path / "pyproject.toml").rmdir()
    (tmp_path / "pyproject.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"pyproject.toml is not UTF-8 text"):
        read_app_configuration(tmp_path)


def test_a_python_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    with pytest.raises(ConfigurationError, match=r"Flower apps need Python 3\.11 or later"):
        parse_app_configuration(PYPROJECT)
