"""The permissions of the round's functions on the tables are exactly those that their adapters need."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.guards.cloud_files import template

_CALLS = re.compile(
    r"self\._client\.([a-z_]+_item)\(|get_paginator\(\"([a-z]+)\"\)|\"(Put|Update|Delete|ConditionCheck)\":"
)


def statements(table: str) -> list[dict[str, Any]]:
    """Return the statements on a table: of the round's policy, and of the functions' roles."""
    resources = template()["Resources"]
    own = [resources[f"{function}Role"]["Properties"]["Policies"] for function in ("Initiator", "Averager")]
    documents = [policy["PolicyDocument"] for policies in own for policy in policies]
    documents.append(resources["RoundPolicy"]["Properties"]["PolicyDocument"])
    listed = [statement for document in documents for statement in document["Statement"]]
    return [one for one in listed if f"{table}.Arn" in str(one["Resource"]).replace("', '", ".")]


def actions(statement: dict[str, Any]) -> set[str]:
    found = statement["Action"]
    return {found} if isinstance(found, str) else set(found)


def called(path: Path) -> set[str]:
    """Return the actions that an adapter's calls need, as IAM spells them."""
    needed = set()
    for call, pages, item in _CALLS.findall(path.read_text()):
        word = {"ConditionCheck": "condition_check_item"}.get(item, f"{item.lower()}_item") if item else call
        needed.add("dynamodb:" + (word or pages).title().replace("_", ""))
    return needed


@pytest.mark.parametrize(
    ("table", "adapter"),
    [("RoundsTable", "dynamodb_table.py"), ("DevicesTable", "device_directory.py")],
)
def test_the_functions_may_make_just_the_calls_that_their_adapter_makes(
    table: str, adapter: str, project: Path
) -> None:
    allowed = set().union(*(actions(statement) for statement in statements(table)))
    assert allowed == called(project / "cloud_functions" / "aws" / adapter)


def test_nothing_can_be_deleted_but_entries_of_the_list_of_the_living() -> None:
    (deletes,) = [one for one in statements("RoundsTable") if "dynamodb:DeleteItem" in actions(one)]
    assert actions(deletes) == {"dynamodb:DeleteItem"}
    assert deletes["Condition"] == {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["#living"]}}
