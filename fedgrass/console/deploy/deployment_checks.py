"""Check a deployment against limits that AWS would report only minutes into it.

IoT policies: AWS refuses a document of more than 2,048 characters. A policy repeats the region and the
fleet's name in every ARN, so that long names exceed the limit. Concurrent functions: the quota of an account
may be smaller than what a stack reserves.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from fedgrass.console.aws_clients import Clients
from fedgrass.console.deploy.deploy_stack import Report
from fedgrass.console.provisioning.core_installation import LARGEST_DOCUMENT
from fedgrass.federation.errors import SettingsError

_VARIABLE = re.compile(r"\$\{([^}!]+)\}")
_LONGEST_UNKNOWN = "x" * 64  # stands for a resource name that CloudFormation will choose
# Parameters of the template that reserve concurrent executions; 0 for none.
_RESERVED = ("InitiatorConcurrency", "AveragerConcurrency")
_LEAST_UNRESERVED = 100  # concurrent executions that AWS keeps unreserved, or all of a smaller quota
_MORE = "request a larger quota (Service Quotas, `Concurrent executions` of Lambda)"


def check_policy_sizes(template: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Check the sizes of the IoT policies in a template.

    Args:
        template: the template, with short forms such as `!Sub` expanded.
        values: values of the parameters and pseudo parameters (``AWS::Region``), by name.

    Raises:
        SettingsError: a policy would exceed the limit of AWS.
    """
    for name, size in policy_sizes(template, values):
        if size > LARGEST_DOCUMENT:
            fleet = values.get("FleetName", "")
            region = values.get("AWS::Region")
            message = (
                f"the policy {name} would have {size:,} characters with the fleet name {fleet!r} in {region},"
                f" and AWS takes {LARGEST_DOCUMENT:,}: choose a shorter FleetName"
            )
            raise SettingsError(message)


def policy_sizes(template: Mapping[str, Any], values: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield (logical name, characters without white space) of each IoT policy."""
    for name, resource in template["Resources"].items():
        if resource.get("Type") == "AWS::IoT::Policy":
            document = _resolved(resource["Properties"]["PolicyDocument"], values)
            yield name, len(json.dumps(document, separators=(",", ":")))


def _resolved(node: object, values: Mapping[str, str]) -> object:
    """Return a part of a template with its variables replaced by values."""
    if isinstance(node, list):
        return [_resolved(one, values) for one in node]
    if not isinstance(node, Mapping):
        return node
    if len(node) == 1:
        ((function, given),) = node.items()
        if function == "Fn::Sub":
            text = given[0] if isinstance(given, list) else given
            filled = _VARIABLE.sub(lambda found: values.get(found[1], _LONGEST_UNKNOWN), text)
            return filled.replace("${!", "${")
        if function == "Ref":
            return values.get(str(given), _LONGEST_UNKNOWN)
        if function == "Fn::If":
            return max((_resolved(one, values) for one in given[1:]), key=lambda one: len(str(one)))
        if function.startswith("Fn::"):
            return _LONGEST_UNKNOWN
    return {key: _resolved(inner, values) for key, inner in node.items()}


def most_concurrent(template: Mapping[str, Any], chosen: Mapping[str, str]) -> int:
    """Return the largest number of concurrent functions that the queues of a template start."""
    events = (
        event
        for resource in template["Resources"].values()
        for event in resource.get("Properties", {}).get("Events", {}).values()
    )
    limits = [one.get("Properties", {}).get("ScalingConfig", {}).get("MaximumConcurrency") for one in events]
    return sum(int(chosen[one["Ref"]] if isinstance(one, Mapping) else one) for one in limits if one)


def reserved_executions(chosen: Mapping[str, str]) -> int:
    """Return the concurrent executions that a stack reserves with these parameters."""
    return sum(int(chosen[name]) for name in _RESERVED if chosen[name].isdecimal())


def check_concurrency(clients: Clients, reserved: int, started: int, report: Report) -> None:
    """Check that the account's quota of concurrent functions suffices for a stack.

    Args:
        clients: returns the boto3 client of a service.
        reserved: concurrent executions to reserve, in addition to those that the stack has reserved already.
        started: largest number of concurrent functions that the stack's queues start.
        report: called with a note if the quota is smaller than ``started``, or cannot be read.

    Raises:
        SettingsError: AWS would refuse the reservation.
    """
    try:
        limits = clients("lambda").get_account_settings()["AccountLimit"]
    except ClientError:
        report("note: these credentials may not read the account's quota of concurrent functions")
        return
    most, free = limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]
    if reserved > 0 and free - reserved < min(_LEAST_UNRESERVED, most):
        message = (
            f"{' and '.join(_RESERVED)} reserve {reserved} concurrent functions, but of the account's quota"
            f" of {most} only {free} are unreserved, and AWS keeps {min(_LEAST_UNRESERVED, most)} of them:"
            f" reserve fewer, or 0, or {_MORE}"
        )
        raise SettingsError(message)
    if most < started:
        report(
            f"note: the account's quota is {most} concurrent functions, and this stack starts up to"
            f" {started}: rounds of many devices take longer, and the account's other functions"
            f" wait; {_MORE}"
        )
