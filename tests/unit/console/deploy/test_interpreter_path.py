"""The configured interpreter is checked at deployment, by the rule of the install step."""

from pathlib import Path
from typing import Any

import pytest

from components.trainer import install
from fedgrass.console.deploy.component_configuration import (
    PYTHON_PATH,
    check_configuration,
    check_python,
    full_name,
)
from fedgrass.console.options import FULL_NAMES
from fedgrass.federation.errors import SettingsError

HOSTILE = [
    "$(touch x)",
    "/usr/bin/python3; id",
    "/usr/bin/`id`",
    '/usr/bin/python3" && id "',
    "/usr/bin/python3' ; id '",
    "/usr/bin/python3\nid",
    "/usr/bin/python3\nEND_OF_PYTHON\nid",
    "python3",
    "venv/bin/python",
    3,
    None,
    ["/usr/bin/python3"],
    True,
]
GOOD = ["", "/usr/bin/python3", "/opt/my env/bin/python3.11", "/home/a-b_c/~x/py+thon@3:1,2=3"]


def test_the_rule_is_that_of_the_install_step() -> None:
    assert PYTHON_PATH.pattern == install.PYTHON_PATH.pattern


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("short", FULL_NAMES)
def test_what_is_no_path_is_refused_before_it_is_deployed(short: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=r"python .*it must be empty or the absolute path"):
        check_configuration(full_name(short), {"python": value})


@pytest.mark.parametrize("value", GOOD)
def test_a_path_is_taken(value: str) -> None:
    check_python("com.fedgrass.Trainer", {"python": value})
    check_python("com.fedgrass.Trainer", {})


def test_the_recipes_hand_the_value_over_with_a_delimiter_that_no_path_holds() -> None:
    project = Path(__file__).parents[4]
    for name in FULL_NAMES.values():
        text = (project / "recipes" / f"{name}.yaml").read_text()
        assert text.count("<<'END_OF_PYTHON'") == text.count("{configuration:/python}") == 3
    assert not PYTHON_PATH.fullmatch("/x\nEND_OF_PYTHON")
