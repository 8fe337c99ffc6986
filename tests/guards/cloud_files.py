"""The template and the topic rules, for the tests that compare them with the code."""

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fedgrass.console.deploy.deploy_package import read_template

PROJECT = Path(__file__).parents[2]
FLEET = "garden"
RULE_FILES = sorted((PROJECT / "iot_rules").glob("*.yaml"))


def template() -> dict[str, Any]:
    """Return a copy of template.yaml with its short forms spelled out."""
    return copy.deepcopy(_template())


@cache
def _template() -> dict[str, Any]:
    # Read once: it takes a quarter of a second, and a hundred tests use it.
    return read_template(PROJECT / "template.yaml")


def rule(path: Path) -> dict[str, Any]:
    """Return a copy of one topic rule as it is included in the template."""
    return copy.deepcopy(_rule(path))


@cache
def _rule(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def sql(path: Path) -> str:
    """Return a rule's SQL for the fleet ``garden``, on one line, with the template's defaults."""
    text = re.sub(r"\s+", " ", _rule(path)["Sql"]["Fn::Sub"]).replace("${FleetName}", FLEET)
    parameters = _template()["Parameters"]
    for name in ("ForgetSeconds", "TurnaroundRetentionDays"):
        text = text.replace(f"${{{name}}}", str(parameters[name]["Default"]))
    return text.strip()


def topic_filter(path: Path) -> str:
    """Return the topic filter in a rule's FROM clause."""
    found = re.search(r" FROM '([^']+)'", sql(path))
    assert found, f"{path} has no FROM clause"
    return found[1]
