"""``fedgrass deploy cloud``: the functions built, the template uploaded, the stack created or changed."""

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedgrass.console.deploy_artifacts import Artifacts
from fedgrass.console.deploy_stack import Say, Stack
from fedgrass.console.deploy_template import packaged, read_template
from fedgrass.console.stack import StackError
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError

Clients = Callable[[str], Any]
TIMEOUT_SECONDS = 1800.0
MARK = "InitiatorName"  # the output by which a stack of fedgrass is known
ALIAS = "DeviceRoleAlias"
STACK_NAME = "[a-zA-Z][-a-zA-Z0-9]{0,127}"  # as CloudFormation takes it


@dataclass(frozen=True)
class CloudOptions:
    """What is deployed, and where."""

    stack: str = "fedgrass"
    parameters: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    artifact_bucket: str = ""
    timeout: float = TIMEOUT_SECONDS
    poll_seconds: float = 2.0


def account_of(clients: Clients, expected: str = "") -> str:
    """Return the account of the credentials. Raises SettingsError if another one is ``expected``."""
    caller = clients("sts").get_caller_identity()
    account: str = caller["Account"]
    if expected and expected != account:
        message = f"the credentials are those of account {account} ({caller['Arn']}), and --account is"
        message += f" {expected}: choose the right ones by AWS_PROFILE"
        raise SettingsError(message)
    return account


def emulated(client: Any) -> bool:
    """Return whether a client speaks to an emulator on this machine."""
    return urlsplit(client.meta.endpoint_url).hostname in {"127.0.0.1", "localhost", "::1"}


def deploy_cloud(clients: Clients, options: CloudOptions, say: Say) -> Mapping[str, str]:
    """Create or change the stack of a fleet from this checkout; return its outputs.

    All that can be wrong is looked at before anything is made; a deployment that fails takes back what it
    brought.

    Raises:
        SettingsError: the credentials are another account's, a parameter is unknown, the stack's name is
            none, or another stack has a fleet of the same name.
        StackError: there is no checkout, the stack is half-deployed or none of fedgrass, the bucket for
            artifacts cannot be used, or AWS refuses.
    """
    checkout = _checkout()
    _check_name(options.stack)
    account = account_of(clients, options.account)
    cloudformation = clients("cloudformation")
    stack = Stack(cloudformation, options.stack, say, options.poll_seconds)
    kind = stack.check()
    before = stack.describe() if kind == "UPDATE" else {}
    if before and MARK not in outputs_of(before):
        message = f"the stack {options.stack!r} is none of fedgrass: choose another --stack"
        raise StackError(message)
    given = dict(options.parameters)
    if emulated(cloudformation) and kind == "CREATE":
        given.setdefault(ALIAS, "no")  # MiniStack knows no such resource
    template = checkout / "template.yaml"
    known = read_template(template).get("Parameters", {})
    parameters = choose_parameters(known, given, before)
    _check_fleet(cloudformation, options.stack, _chosen("FleetName", known, given, before))
    artifacts = Artifacts(clients("s3"), account, options.stack, options.artifact_bucket)
    artifacts.check()
    architecture = _chosen("Architecture", known, given, before)
    with tempfile.TemporaryDirectory(prefix="fedgrass-deploy-") as folder:
        code = Path(folder) / "cloud_functions.zip"
        _build(code, "" if emulated(cloudformation) else architecture, say)
        artifacts.prepare()
        try:
            body = packaged(template, code, artifacts.upload)
            changed = stack.apply(artifacts.upload_template(body), parameters, options.timeout)
        except BaseException:
            if not stack.is_under_way():  # what AWS goes on with needs them
                artifacts.take_back()
            raise
    say(f"the stack {options.stack!r} in account {account} is {'deployed' if changed else 'as it was'}")
    return outputs_of(stack.describe())


def choose_parameters(
    known: Mapping[str, Any], given: Mapping[str, str], before: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the stack's parameters: what is given, otherwise what the stack has, otherwise the default.

    Args:
        known: the template's section Parameters.
        given: values by name.
        before: what CloudFormation says of the stack; empty if there is none yet.

    Raises:
        SettingsError: a name that the template does not know.
    """
    for name in given:
        if name not in known:
            message = f"the template has no parameter {name!r}: {nearest(name, sorted(known))}"
            raise SettingsError(message)
    kept = {parameter["ParameterKey"] for parameter in before.get("Parameters", [])} & set(known) - set(given)
    chosen: list[dict[str, Any]] = [
        {"ParameterKey": name, "ParameterValue": value} for name, value in given.items()
    ]
    return chosen + [{"ParameterKey": name, "UsePreviousValue": True} for name in sorted(kept)]


def outputs_of(described: Mapping[str, Any]) -> dict[str, str]:
    """Return the outputs of a stack as CloudFormation describes it, by key."""
    return {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}


def _check_name(stack: str) -> None:
    if not re.fullmatch(STACK_NAME, stack):
        message = f"--stack is {stack!r}; it takes 1 to 128 letters, digits or '-', the first a letter"
        raise SettingsError(message)


def _check_fleet(cloudformation: Any, stack: str, fleet: str) -> None:
    """Check that no other stack has the fleet: both would hear, and answer, the same devices."""
    for page in cloudformation.get_paginator("describe_stacks").paginate():
        for other in page["Stacks"]:
            found = outputs_of(other)
            if MARK in found and found.get("Fleet") == fleet and other["StackName"] != stack:
                message = (
                    f"the fleet {fleet!r} is that of the stack {other['StackName']!r}, and two stacks would"
                    f" hear the same devices: give this one another name, as by --parameter FleetName=NAME"
                )
                raise SettingsError(message)


def _chosen(name: str, known: Mapping[str, Any], given: Mapping[str, str], before: Mapping[str, Any]) -> str:
    previous = {one["ParameterKey"]: one["ParameterValue"] for one in before.get("Parameters", [])}
    return str(given.get(name, previous.get(name, known[name]["Default"])))


def _checkout() -> Path:
    try:
        import package  # noqa: PLC0415  # only a checkout has it
    except ImportError as error:
        message = (
            "fedgrass deploy works from a checkout of the project, which has template.yaml: this is none"
        )
        raise StackError(message) from error
    return package.ROOT


def _build(target: Path, architecture: str, say: Say) -> None:
    """Build the functions' zip, with their packages unless they run on this machine."""
    import package  # noqa: PLC0415  # as above

    if architecture and architecture not in package.LAMBDA_MACHINES:
        message = f"Architecture is {architecture!r}: {' or '.join(sorted(package.LAMBDA_MACHINES))}"
        raise SettingsError(message)
    say(f"building the functions{f' for {architecture}' if architecture else ''}")
    try:
        package.build_functions(target, architecture or None)
    except (subprocess.SubprocessError, OSError) as error:
        message = f"the functions could not be built, and nothing is deployed: {error}"
        raise StackError(message) from error
