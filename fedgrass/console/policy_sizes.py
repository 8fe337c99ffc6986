"""Sizes of a template's IoT policies: AWS refuses a document of more than 2,048 characters, after minutes.

A policy repeats the region and the fleet's name in every ARN, so that a long name in a long region passes the
limit. Its size is known before the stack is created.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedgrass.console.core_policy import LARGEST_DOCUMENT
from fedgrass.federation.errors import SettingsError

_VARIABLE = re.compile(r"\$\{([^}!]+)\}")
_LONGEST_UNKNOWN = "x" * 64  # in the place of a resource's name, which CloudFormation chooses


def check_policy_sizes(template: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Check the IoT policies that a template makes.

    Args:
        template: with its short forms spelled out.
        values: of the parameters and of ``AWS::Region`` and such.

    Raises:
        SettingsError: a policy would be larger than AWS takes.
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
    """Yield each IoT policy's logical name and its characters without white space."""
    for name, resource in template["Resources"].items():
        if resource.get("Type") == "AWS::IoT::Policy":
            document = _resolved(resource["Properties"]["PolicyDocument"], values)
            yield name, len(json.dumps(document, separators=(",", ":")))


def _resolved(node: object, values: Mapping[str, str]) -> object:
    """Return a part of a template with its variables filled in."""
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
