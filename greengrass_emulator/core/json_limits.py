"""Nucleus Lite's limits on JSON, which it decodes into a fixed number of objects.

They apply to messages between components and to the job document of a cloud deployment.
"""

from collections.abc import Mapping

from greengrass_emulator.emulator_errors import CoreError


def count_parts(value: object) -> int:
    """Return the number of keys and values within ``value``.

    A pair of a map counts 2, an item of a list 1, the value itself 0.
    """
    parts = 0
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            parts += 2 * len(node)
            pending.extend(node.values())
        elif isinstance(node, list | tuple):
            parts += len(node)
            pending.extend(node)
    return parts


def job_document(
    versions: Mapping[str, str], merges: Mapping[str, Mapping[str, object]]
) -> Mapping[str, object]:
    """Return the job document of a deployment of these components, in the form that AWS sends.

    Args:
        versions: the version of each component, by name.
        merges: what is merged into each component's configuration, by name.
    """
    components = {
        name: {"version": version, "configurationUpdate": {"MERGE": merges.get(name, {}), "RESET": []}}
        for name, version in versions.items()
    }
    return {
        "deploymentId": "00000000-0000-4000-8000-000000000000",
        "deploymentName": "local core",
        "configurationArn": "arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/local-core:1",
        "creationTimestamp": 0,
        "requiredCapabilities": ["LARGE_CONFIGURATION", "LINUX_RESOURCE_LIMITS", "SUB_DEPLOYMENTS"],
        "components": components,
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"timeout": 60, "action": "NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeout": 60},
    }


def check_job_document(document: Mapping[str, object], most_parts: int | None) -> None:
    """Raise CoreError if a job document has more keys and values than the nucleus decodes."""
    parts = count_parts(document)
    if most_parts is not None and parts > most_parts:
        message = (
            f"the deployment's document has {parts} keys and values, nucleus lite accepts {most_parts}:"
            " reduce the configuration"
        )
        raise CoreError(message)
