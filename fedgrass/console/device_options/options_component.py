"""The component com.fedgrass.DeviceOptions: its recipe, its configuration, and its publication.

It is published by the first deployment that needs it. It has no artifact.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from components.runtime.component_errors import ConfigurationError
from components.runtime.device_options import COMPONENT, KEY, merge_device_options
from fedgrass.console.aws_clients import Clients
from fedgrass.console.greengrass_cloud import DeploymentError, GreengrassCloud, code_of
from fedgrass.federation.errors import SettingsError

VERSION = "1.0.0"
RECIPE = Path(__file__).with_name(f"{COMPONENT}.yaml")
# Bytes of JSON: Nucleus Lite stores no value of more than 1,024.
LARGEST_OPTIONS = 1000
LOOK_SECONDS = 2.0
_WAIT_SECONDS = 120.0
Options = Mapping[str, Mapping[str, Any]]  # by task name, then option


def configuration_of(options: Options) -> dict[str, str]:
    """Return the component's configuration for the options of a thing."""
    kept = {task: dict(given) for task, given in sorted(options.items()) if given}
    return {KEY: msgspec.json.encode(kept, order="deterministic").decode()}


def size_of(options: Options) -> int:
    """Return the bytes that the options take as a value in the store of Nucleus Lite."""
    return len(json.dumps(configuration_of(options)[KEY]))


def options_in(thing: str, deployment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options in the latest deployment to a thing.

    Args:
        thing: name of the thing, for errors.
        deployment: as GetDeployment returns it; empty if there is none.

    Raises:
        SettingsError: they were not written by fedgrass.
    """
    update = deployment.get("components", {}).get(COMPONENT, {}).get("configurationUpdate", {})
    try:
        text = json.loads(update.get("merge") or "{}").get(KEY, "")
        found: dict[str, dict[str, Any]] = json.loads(text or "{}")
        merge_device_options({"tasks": {}}, text)  # checks their form as a device does
    except (ValueError, TypeError, AttributeError, ConfigurationError) as error:
        message = (
            f"the options of {thing} in its deployment cannot be used ({error}): replace them by --remove"
        )
        raise SettingsError(message) from error
    return found


def publish(clients: Clients, cloud: GreengrassCloud) -> None:
    """Create the component's version in the account, and wait until it can be deployed.

    Raises:
        DeploymentError: Greengrass refused it.
    """
    greengrass = clients("greengrassv2")
    try:
        greengrass.create_component_version(inlineRecipe=RECIPE.read_bytes())
    except ClientError as error:
        if code_of(error) == "ValidationException":
            message = f"Greengrass refused the recipe of {COMPONENT}: {error}"
            raise DeploymentError(message) from error
        if code_of(error) != "ConflictException":  # another operator created it
            raise
    deadline = time.monotonic() + _WAIT_SECONDS
    arn = cloud.account.component_version(COMPONENT, VERSION)
    while (status := greengrass.describe_component(arn=arn)["status"])["componentState"] != "DEPLOYABLE":
        if status["componentState"] == "FAILED" or time.monotonic() > deadline:
            message = f"{COMPONENT} {VERSION} is {status['componentState']}: {status.get('message', '')}"
            raise DeploymentError(message)
        time.sleep(LOOK_SECONDS)
