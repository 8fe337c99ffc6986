"""Findings of the checks of ``fedgrass doctor``, and what the checks share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from msgspec import Struct

import package
from fedgrass.console.aws_clients import Clients
from fedgrass.console.deploy.deploy_package import read_template
from fedgrass.console.stack import outputs_of

State = Literal["ok", "note", "problem", "unknown"]


class Finding(Struct, frozen=True, kw_only=True):
    """What one check found."""

    check: str  # name of the check, such as "topic rules"
    state: State  # note: worth knowing; problem: something does not work, or will not; unknown: not checked
    text: str  # one line
    remedy: str  # what to do; empty if nothing is to be done


class HealthReport(Struct, frozen=True, kw_only=True):
    """All findings about one stack."""

    stack: str
    region: str
    checked_at: int  # milliseconds since the epoch, by this machine's clock
    findings: list[Finding]  # in the order of the checks
    count: int  # of `findings`
    problems: int  # how many of them are problems


@dataclass(frozen=True)
class Examined:
    """The stack that the checks examine.

    Args:
        clients: returns the boto3 client of a service.
        name: of the stack.
        now: milliseconds since the epoch.
        most_certificates: of how many devices the certificates are read.
    """

    clients: Clients
    name: str
    now: int
    most_certificates: int
    described: Mapping[str, Any] = field(default_factory=dict)  # as CloudFormation describes the stack

    @cached_property
    def outputs(self) -> Mapping[str, str]:
        """The stack's outputs, by name."""
        return outputs_of(self.described)

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        """The values of the stack's parameters, by name."""
        return {
            one["ParameterKey"]: one.get("ParameterValue", "") for one in self.described.get("Parameters", [])
        }

    @cached_property
    def template(self) -> Mapping[str, Any]:
        """The template of this version of fedgrass."""
        return read_template(package.ROOT / "template.yaml")

    @cached_property
    def resources(self) -> Mapping[str, tuple[str, str]]:
        """Type and name of each of the stack's resources, by its name in the template."""
        pages = self.clients("cloudformation").get_paginator("list_stack_resources")
        return {
            one["LogicalResourceId"]: (one["ResourceType"], one.get("PhysicalResourceId", ""))
            for page in pages.paginate(StackName=self.name)
            for one in page["StackResourceSummaries"]
        }


Check = Callable[[Examined], Iterable[Finding]]


def good(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check=check, state="ok", text=text, remedy="")


def note(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(check=check, state="note", text=text, remedy=remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that something does not work, or will not."""
    return Finding(check=check, state="problem", text=text, remedy=remedy)


def unknown(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that something could not be checked."""
    return Finding(check=check, state="unknown", text=text, remedy=remedy)


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
