"""The topic rules use only what both AWS and MiniStack support, and write only the tables that they may."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedgrass.federation.messages import Completion, Heartbeat, Status
from tests.guards.cloud_files import RULE_FILES, rule, sql, template

# Functions that both support (MiniStack silently returns nothing for others).
FUNCTIONS = {
    "topic", "timestamp", "clientid", "newuuid", "principal", "traceid", "replace", "encode", "isUndefined",
    "regexp_matches",
}  # fmt: skip
ACTIONS = {"Lambda", "Sqs", "Sns", "Republish", "DynamoDBv2"}
UNSUPPORTED = [r"\bCASE\b", r"\bVALUE\b", r"\bget\s*\(", r"\bcast\s*\(", r"\[", r"\{", r"\."]
every_rule = pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)


def columns(path: Path) -> dict[str, str]:
    """Return the columns that a rule selects, as name and expression."""
    selected = sql(path).partition(" FROM ")[0].removeprefix("SELECT ")
    found = {}
    for column in re.split(r",\s*(?![^()]*\))", selected):
        expression, _, name = column.partition(" AS ")
        found[name or expression] = expression
    return found


def actions(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = rule(path)["Actions"]
    return [(name, action) for entry in found for name, action in entry.items()]


@every_rule
def test_a_rule_calls_only_functions_that_both_run(path: Path) -> None:
    called = set(re.findall(r"(\w+)\s*\(", sql(path))) - {"IN", "AND", "OR", "NOT", "WHERE"}
    assert called <= FUNCTIONS


@every_rule
def test_a_rule_uses_nothing_that_ministack_silently_ignores(path: Path) -> None:
    outside_texts = re.sub(r"'[^']*'", "''", sql(path))
    assert [pattern for pattern in UNSUPPORTED if re.search(pattern, outside_texts)] == []


@every_rule
def test_only_the_sql_of_a_rule_has_templates_and_they_are_parameters_of_the_stack(path: Path) -> None:
    lasting = {
        "declines": ["${TurnaroundRetentionDays}"],
        "heartbeats": ["${ForgetSeconds}"],
        "turnarounds": ["${TurnaroundRetentionDays}"],
    }
    expected = [*lasting.get(path.stem, []), "${FleetName}"]
    assert re.findall(r"\$\{[^}]*\}", path.read_text()) == expected
    assert re.findall(r"\$\{[^}]*\}", rule(path)["Sql"]["Fn::Sub"]) == expected


@every_rule
def test_a_rule_has_a_version_and_one_action_that_both_run(path: Path) -> None:
    loaded = rule(path)
    assert loaded["AwsIotSqlVersion"] == "2016-03-23"
    assert loaded["RuleDisabled"] is False
    ((name, action),) = actions(path)
    assert name in ACTIONS
    assert action["RoleArn"] == {"Fn::GetAtt": ["RulesRole", "Arn"]}


@every_rule
def test_what_a_rule_cannot_put_into_a_queue_is_kept_and_a_row_that_it_cannot_write_is_dropped(
    path: Path,
) -> None:
    loaded = rule(path)
    ((name, _),) = actions(path)
    if name == "Sqs":
        assert loaded["ErrorAction"]["Sqs"]["QueueUrl"] == {"Ref": "DeadLetters"}
    else:
        # A device could fill the dead-letter queue with numbers that DynamoDB rejects.
        assert "ErrorAction" not in loaded


@every_rule
def test_every_column_of_a_rule_is_flat_and_named(path: Path) -> None:
    assert all(re.fullmatch(r"\w+", name) for name in columns(path))


def test_only_these_rules_write_tables_and_none_writes_rounds() -> None:
    """Heartbeats become devices; completions, declines and failures turnarounds. The driver writes rounds."""
    written = {
        path.name: action["PutItem"]["TableName"]["Ref"]
        for path in RULE_FILES
        for name, action in actions(path)
        if name == "DynamoDBv2"
    }
    assert written == {
        "declines.yaml": "TurnaroundsTable",
        "heartbeats.yaml": "DevicesTable",
        "turnarounds.yaml": "TurnaroundsTable",
    }


WRITES = {
    "dynamodb:PutItem",
    "dynamodb:UpdateItem",
    "dynamodb:DeleteItem",
    "dynamodb:BatchWriteItem",
    "dynamodb:*",
}


def test_the_functions_may_write_no_table_but_rounds_and_the_initiator_may_forget_devices() -> None:
    resources = template()["Resources"]
    documents = [resources["RoundPolicy"]["Properties"]["PolicyDocument"]]
    for function in ("Initiator", "Averager"):
        # A separate role: SAM adds policies for all queues and all logs to those that it creates.
        assert resources[function]["Properties"]["Role"] == {"Fn::GetAtt": [f"{function}Role", "Arn"]}
        policies = resources[f"{function}Role"]["Properties"]["Policies"]
        documents += [policy["PolicyDocument"] for policy in policies]
    written = [
        (statement["Resource"]["Fn::GetAtt"][0], writes)
        for document in documents
        for statement in document["Statement"]
        if (writes := set(_many(statement["Action"])) & WRITES)
    ]
    others = [(table, writes) for table, writes in written if table != "RoundsTable"]
    assert len(others) < len(written)
    assert others == [("DevicesTable", {"dynamodb:DeleteItem"})]
    forgets = [
        statement["Action"]
        for policy in resources["InitiatorRole"]["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Resource"] == {"Fn::GetAtt": ["DevicesTable", "Arn"]}
    ]
    assert forgets == ["dynamodb:DeleteItem"]


def _many(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_no_policy_allows_everything() -> None:
    def texts(node: object) -> list[str]:
        if isinstance(node, dict):
            return [text for value in node.values() for text in texts(value)]
        if isinstance(node, list):
            return [text for value in node for text in texts(value)]
        return [str(node)]

    resources = template()["Resources"]
    # The bucket's policy only denies; X-Ray and ECR's login have no finer resources.
    allowed = {
        name: texts(resource)
        for name, resource in resources.items()
        if name not in {"BucketPolicy", "ServerAppStartRole", "TracePolicy"}
    }
    assert not [
        name for name, said in allowed.items() if {"*", "*:*", "iot:*", "s3:*", "dynamodb:*"} & set(said)
    ]


def test_what_rules_write_into_tables_are_fields_of_the_messages_or_the_clouds_own_words() -> None:
    decline, heartbeat, turnaround = (
        columns(path) for path in RULE_FILES if path.stem in {"declines", "heartbeats", "turnarounds"}
    )
    own = {"device": "topic(4)", "last_seen": "timestamp()"}
    # Whole seconds, as required by DynamoDB's time to live; AWS and MiniStack round differently.
    expires = "(timestamp() - timestamp() % 1000) / 1000 + {}"
    own["expires_at"] = expires.format("2592000")
    assert heartbeat == own | {name: name for name in _fields(Heartbeat)}
    assert turnaround["expires_at"] == expires.format("365 * 86400")
    computed = {"device", "received_at", "turnaround_ms", "expires_at"}
    assert set(turnaround) - computed <= _fields(Completion)
    assert turnaround["turnaround_ms"] == "timestamp() - announced_at"
    assert decline["expires_at"] == turnaround["expires_at"]
    assert set(decline) == {"device", "received_at", "expires_at", "round_id", "state", "reason"}
    assert {"round_id", "state", "reason"} <= _fields(Status)


def _fields(kind: type[msgspec.Struct]) -> set[str]:
    return set(kind.__struct_fields__) - {"version"}


@pytest.mark.parametrize("name", ["replies.yaml", "statuses.yaml", "hellos.yaml"])
def test_what_goes_to_a_queue_is_the_payload_byte_for_byte_and_who_and_when_by_the_cloud(name: str) -> None:
    path = next(path for path in RULE_FILES if path.name == name)
    assert columns(path) == {
        "payload": "encode(*, 'base64')",
        "device": "topic(4)",
        "kind": "topic(5)",
        "client": "clientid()",
        "received_at": "timestamp()",
    }
