"""The tests named in docs/security.md exist, and docs/operations.md lists every metric and alarm."""

import re
import shlex

import pytest

import package
from cloud_functions.monitoring import Metric
from fedgrass.console.main import parse

DOCS = package.ROOT / "docs"
CLAIM = re.compile(r"\[(test_[a-z0-9_]+)\]\(\.\./(tests/[^)]+)\)")


def test_every_test_named_on_the_page_of_security_exists() -> None:
    page = (DOCS / "security.md").read_text()
    claims = CLAIM.findall(page)
    assert len(claims) == len(re.findall(r"[\[`]test_[a-z0-9_]+[\]`]", page)) > 20
    absent = [name for name, path in claims if f"def {name}(" not in (package.ROOT / path).read_text()]
    assert absent == []


@pytest.mark.parametrize("page", ["operations.md", "security.md"])
def test_every_command_in_a_line_of_the_page_is_understood(page: str) -> None:
    for command in re.findall(r"`fedgrass ([a-z][^`]*)`", (DOCS / page).read_text()):
        assert parse(shlex.split(command)), command


def test_the_page_of_operations_has_every_metric() -> None:
    page = (DOCS / "operations.md").read_text()
    cells = re.findall(r"^\| (`[A-Z][^|]*) \| (?:count|seconds|bytes|none) \|", page, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([A-Za-z]+)`", cell)]
    assert sorted(named) == sorted(Metric)


def test_the_page_of_operations_has_every_alarm_of_the_template() -> None:
    page = (DOCS / "operations.md").read_text()
    template = (package.ROOT / "template.yaml").read_text()
    alarms = re.findall(r"^  ([A-Za-z]+):\n    Type: AWS::CloudWatch::Alarm$", template, re.MULTILINE)
    assert [alarm for alarm in alarms if f"`{alarm}`" not in page] == []
