"""What Greengrass itself needs of AWS IoT on a core device, as an IoT policy with the device's own name.

A policy per device, since AWS promises no thing policy variables for core devices. The fleet's own topics are
in the stack's device policy. provisioning/fleet.yaml spells this again for devices that register by a claim.
"""

import hashlib
import json
from typing import Any

from fedgrass.federation.errors import SettingsError

LONGEST_NAME = 128
LARGEST_DOCUMENT = 2048  # characters, without white space
# Of Greengrass's data plane, which knows no finer resource for a device's certificate.
DATA_PLANE = (
    "greengrass:GetComponentVersionArtifact",
    "greengrass:GetDeploymentConfiguration",
    "greengrass:ListThingGroupsForCoreDevice",
    "greengrass:ResolveComponentCandidates",
)


def policy_name(fleet: str, thing: str) -> str:
    """Return the name of a core device's policy; another one for each thing."""
    name = f"fedgrass-{fleet}-core-{thing.replace(':', '.')}"  # a thing's name has no dot of its own
    if len(name) <= LONGEST_NAME:
        return name
    return f"fedgrass-{fleet}-core-{hashlib.sha256(thing.encode()).hexdigest()[:32]}"


def core_policy(thing: str, role_alias: str, *, partition: str, region: str, account: str) -> dict[str, Any]:
    """Return the policy document of one core device.

    Args:
        thing: its name.
        role_alias: through which it gets credentials.
        partition: such as ``aws``.
        region: as AWS spells it.
        account: 12 digits.

    Raises:
        SettingsError: the name is so long that the document is larger than AWS takes.
    """
    iot = f"arn:{partition}:iot:{region}:{account}:"
    own = f"$aws/things/{thing}"
    jobs_and_shadows = ("jobs/*", "shadow/*")
    said = ("greengrass/health/json", "greengrassv2/health/json", *jobs_and_shadows)
    document = {
        "Version": "2012-10-17",
        "Statement": [
            # The classic nucleus opens more connections as it needs them: thing, thing#2, ...
            _allow(["iot:Connect"], [f"{iot}client/{thing}", f"{iot}client/{thing}#*"]),
            _allow(["iot:Publish", "iot:Receive"], [f"{iot}topic/{own}/{what}" for what in said]),
            _allow(["iot:Subscribe"], [f"{iot}topicfilter/{own}/{what}" for what in jobs_and_shadows]),
            _allow(["iot:AssumeRoleWithCertificate"], [f"{iot}rolealias/{role_alias}"]),
            _allow(list(DATA_PLANE), ["*"]),
        ],
    }
    if len(json.dumps(document, separators=(",", ":"))) > LARGEST_DOCUMENT:
        message = (
            f"the thing name {thing!r} is too long: its policy has more than {LARGEST_DOCUMENT} characters"
        )
        raise SettingsError(message)
    return document


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}
