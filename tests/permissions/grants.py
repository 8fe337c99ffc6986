"""The permissions that deployed policies grant, compared with those that were needed."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document

from tests.permissions.needs import ACCOUNT, REGION, Need

Statement = Mapping[str, Any]


class Grant(NamedTuple):
    """One action on one resource pattern, allowed by a statement under its condition."""

    action: str
    resource: str
    condition: str  # JSON

    @property
    def statement(self) -> Statement:
        """The smallest statement that grants this permission."""
        condition = {"Condition": json.loads(self.condition)} if self.condition != "{}" else {}
        return {"Effect": "Allow", "Action": self.action, "Resource": self.resource, **condition}

    def __str__(self) -> str:
        return f"{self.action:32} {self.resource}" + (
            "" if self.condition == "{}" else f"  if {self.condition}"
        )


def statements_of_role(iam: Any, role: str) -> list[Statement]:
    """Return all statements of a deployed role, of inline and attached policies."""
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        policy = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]
        version = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
        documents.append(version["PolicyVersion"]["Document"])
    return [statement for document in documents for statement in _listed(document["Statement"])]


def grants(statements: Iterable[Statement]) -> list[Grant]:
    """Return each action on each resource that the statements allow."""
    found = {
        Grant(action, resource, json.dumps(statement.get("Condition", {}), sort_keys=True))
        for statement in statements
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    }
    return sorted(found)


def allows(statements: Iterable[Statement], need: Need) -> bool:
    """Return whether statements allow a need, by MiniStack's evaluation of IAM policies."""
    context = EvalContext(
        principal_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/any/one",
        principal_type="AssumedRole",
        principal_account=ACCOUNT,
        action=need.action,
        resource_arn=need.resource,
        region=REGION,
        source_ip="127.0.0.1",
        service_context={name: list(of) if isinstance(of, tuple) else of for name, of in need.keys},
    )
    document = {"Version": "2012-10-17", "Statement": list(statements)}
    return bool(evaluate(context, [parse_policy_document(document)]).decision == "Allow")


def missing(statements: Iterable[Statement], needs: Iterable[Need]) -> list[Need]:
    """Return the needs that are not allowed."""
    listed = list(statements)
    return sorted(need for need in set(needs) if not allows(listed, need))


def unused(found: Iterable[Grant], needs: Iterable[Need]) -> list[Grant]:
    """Return the grants that were not needed."""
    listed = set(needs)
    return [grant for grant in found if not any(allows([grant.statement], need) for need in listed)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
