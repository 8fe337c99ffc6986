"""The configured interpreter is checked where it is deployed, by the rule of the install step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.trainer import install
from fedgrass.console.component_names import FULL_NAMES, full_name
from fedgrass.console.device_plan import Asked, make_plan
from fedgrass.console.interpreter_path import PYTHON_PATH, check_python
from fedgrass.federation.errors import SettingsError

STACK = {"Fleet": "plant", "BucketName": "bucket"}

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


class Cloud:
    """An account in which everything is published and nothing deployed."""

    account = SimpleNamespace(number="123456789012", region="eu-west-1")

    def group(self, name: str) -> str:
        return f"arn:aws:iot:eu-west-1:123456789012:thinggroup/{name}"

    def newest_deployment(self, _target: str) -> dict[str, Any]:
        return {}

    def versions(self, _name: str) -> list[str]:
        return ["0.1.0"]

    def things(self, _group: str) -> int:
        return 0


def test_the_rule_is_that_of_the_install_step() -> None:
    assert PYTHON_PATH.pattern == install.PYTHON_PATH.pattern


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("short", FULL_NAMES)
def test_what_is_no_path_is_refused_before_it_is_deployed(short: str, value: Any) -> None:
    asked = Asked(group="presses", components=[short], configuration={full_name(short): {"python": value}})
    with pytest.raises(SettingsError, match="python .*it has to be the absolute path"):
        make_plan(Cloud(), STACK, asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", GOOD)
def test_a_path_is_taken(value: str) -> None:
    check_python("com.fedgrass.Trainer", {"python": value})
    check_python("com.fedgrass.Trainer", {})


def test_the_recipes_hand_the_value_over_with_a_delimiter_that_no_path_holds() -> None:
    project = Path(__file__).parents[2]
    for name in FULL_NAMES.values():
        text = (project / "recipes" / f"{name}.yaml").read_text()
        assert text.count("<<'END_OF_PYTHON'") == text.count("{configuration:/python}") == 3
    assert not PYTHON_PATH.fullmatch("/x\nEND_OF_PYTHON")
