"""``fedgrass deploy cloud``: build the functions, upload the template, create or update the stack.

Everything that can be wrong is checked before anything is created; a deployment that fails leaves no
artifacts.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import package
from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.deploy.deploy_package import Artifacts, packaged, read_template
from fedgrass.console.deploy.deploy_stack import Report, Stack
from fedgrass.console.deploy.deployment_checks import (
    check_concurrency,
    check_policy_sizes,
    most_concurrent,
    reserved_executions,
)
from fedgrass.console.results import reported_steps
from fedgrass.console.stack import StackError, caller, outputs_of
from fedgrass.console.strategies.custom_strategies import (
    CustomStrategy,
    chosen_strategies,
    read_strategy,
    write_files,
)
from fedgrass.console.strategies.deployed_strategies import check_uses, deployed_strategies, living_uses
from fedgrass.console.strategies.strategy_check import checked
from fedgrass.console.terminal import say
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef


TIMEOUT_SECONDS = 1800.0
MARK = "InitiatorName"  # the output that identifies a stack of fedgrass
_ALIAS = "DeviceRoleAlias"
_STACK_NAME = "[a-zA-Z][-a-zA-Z0-9]{0,127}"


@dataclass(frozen=True)
class CloudOptions:
    """The options of ``fedgrass deploy cloud``."""

    stack: str = "fedgrass"
    parameters: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    artifact_bucket: str = ""
    strategies: Sequence[Path] = ()  # files and package folders of custom strategies
    without_strategies: Sequence[str] = ()  # modules to remove
    timeout: float = TIMEOUT_SECONDS
    dry_run: bool = False
    poll_seconds: float = 2.0


def is_emulated(client: Any) -> bool:
    """Return whether a client talks to an emulated cloud on this machine."""
    return urlsplit(client.meta.endpoint_url).hostname in {"127.0.0.1", "localhost", "::1"}


def deploy_cloud(clients: Clients, options: CloudOptions, report: Report) -> Mapping[str, str]:
    """Create or update the stack of a fleet from these sources; return its outputs, empty for a dry run.

    A deployment that fails deletes the artifacts that it uploaded.

    Args:
        clients: returns the boto3 client of a service.
        options: what to deploy, and where.
        report: called with a line per step.

    Raises:
        SettingsError: the credentials belong to another account, a parameter is unknown, the stack's name is
            invalid, another stack has a fleet of the same name, or a custom strategy cannot be used.
        StackError: the stack is in a failed state or was not deployed by fedgrass, the bucket for artifacts
            cannot be used, or AWS refused the deployment.
    """
    _check_name(options.stack)
    given_strategies = checked([read_strategy(path) for path in options.strategies])
    account, _ = caller(clients, options.account)
    cloudformation = clients("cloudformation")
    stack = Stack(cloudformation, options.stack, report, options.poll_seconds)
    kind = stack.check()
    before = stack.describe() if kind == "UPDATE" else {}
    if before and MARK not in outputs_of(before):
        message = f"the stack {options.stack!r} was not deployed by fedgrass: choose another --stack"
        raise StackError(message)
    given = dict(options.parameters)
    if is_emulated(cloudformation) and kind == "CREATE":
        given.setdefault(_ALIAS, "no")  # MiniStack does not support this resource
    template = package.ROOT / "template.yaml"
    document = read_template(template)
    known = document.get("Parameters", {})
    parameters = choose_parameters(known, given, before)
    _check_fleet(cloudformation, options.stack, _chosen("FleetName", known, given, before))
    chosen = {name: _chosen(name, known, given, before) for name in known}
    check_policy_sizes(document, {**chosen, **_pseudo_parameters(clients, account)})
    if not is_emulated(cloudformation):
        reserved = reserved_executions(chosen) - reserved_executions(
            {name: _chosen(name, known, {}, before) for name in known}
        )
        check_concurrency(clients, reserved, most_concurrent(document, chosen), report)
    artifacts = Artifacts(clients("s3"), account, options.stack, options.artifact_bucket)
    artifacts.check()
    strategies = _strategies(clients, given_strategies, options.without_strategies, before, report)
    architecture = _chosen("Architecture", known, given, before)
    with tempfile.TemporaryDirectory(prefix="fedgrass-deploy-") as folder:
        code = Path(folder) / "cloud_functions.zip"
        extra = write_files(strategies, Path(folder) / "strategies")
        _build(code, "" if is_emulated(cloudformation) else architecture, extra, report)
        artifacts.prepare()
        try:
            body = packaged(template, code, artifacts.upload)
            url = artifacts.upload_template(body)
            if options.dry_run:
                for line in stack.preview(url, parameters, options.timeout) or ["nothing would change"]:
                    report(line)
                artifacts.discard()
                report("nothing was changed (--dry-run)")
                return {}
            changed = stack.apply(url, parameters, options.timeout)
        except BaseException:
            if not stack.is_in_progress():  # an operation in progress still needs them
                artifacts.discard()
            raise
    report(f"the stack {options.stack!r} in account {account} is {'deployed' if changed else 'unchanged'}")
    return outputs_of(stack.describe())


def choose_parameters(
    known: Mapping[str, Any], given: Mapping[str, str], before: Mapping[str, Any]
) -> "list[ParameterTypeDef]":
    """Return the parameters of the stack: given values, otherwise its present values, otherwise defaults.

    Args:
        known: the section Parameters of the template.
        given: given values, by name.
        before: the description of the stack; empty if it does not exist yet.

    Raises:
        SettingsError: the template has no parameter of a given name.
    """
    for name in given:
        if name not in known:
            message = f"the template has no parameter {name!r}: {nearest(name, sorted(known))}"
            raise SettingsError(message)
    present = {parameter["ParameterKey"] for parameter in before.get("Parameters", [])}
    chosen: list[ParameterTypeDef] = [
        {"ParameterKey": name, "ParameterValue": value} for name, value in given.items()
    ]
    kept: list[ParameterTypeDef] = [
        {"ParameterKey": name, "UsePreviousValue": True} for name in sorted(present & set(known) - set(given))
    ]
    return [*chosen, *kept]


def _check_name(stack: str) -> None:
    if not re.fullmatch(_STACK_NAME, stack):
        message = f"--stack is {stack!r}; it takes 1 to 128 letters, digits or '-', the first a letter"
        raise SettingsError(message)


def _check_fleet(cloudformation: "CloudFormationClient", stack: str, fleet: str) -> None:
    """Check that no other stack has the fleet: both would process the messages of the same devices."""
    for page in cloudformation.get_paginator("describe_stacks").paginate():
        for other in page["Stacks"]:
            found = outputs_of(other)
            if MARK in found and found.get("Fleet") == fleet and other["StackName"] != stack:
                message = (
                    f"the fleet {fleet!r} belongs to the stack {other['StackName']!r}, and two stacks cannot"
                    " share its devices: choose another fleet name by --parameter FleetName=NAME"
                )
                raise SettingsError(message)


def _chosen(name: str, known: Mapping[str, Any], given: Mapping[str, str], before: Mapping[str, Any]) -> str:
    previous = {one["ParameterKey"]: one["ParameterValue"] for one in before.get("Parameters", [])}
    return str(given.get(name, previous.get(name, known[name]["Default"])))


def _pseudo_parameters(clients: Clients, account: str) -> dict[str, str]:
    meta = clients("cloudformation").meta
    return {"AWS::Region": meta.region_name, "AWS::Partition": meta.partition, "AWS::AccountId": account}


def _strategies(
    clients: Clients,
    given: Sequence[CustomStrategy],
    without: Sequence[str],
    before: Mapping[str, Any],
    report: Report,
) -> dict[str, CustomStrategy]:
    """Return the custom strategies to deploy, and report each.

    Raises:
        SettingsError: they contradict each other, or a living run would lose the one that it uses.
        StackError: those that are deployed cannot be read.
    """
    outputs = outputs_of(before)
    # A stack that lacks the output is older than custom strategies.
    averager = outputs.get("AveragerName", "")
    deployed = deployed_strategies(clients, averager) if averager else {}
    chosen = chosen_strategies(deployed, given, without)
    if any(chosen.get(name) != one for name, one in deployed.items()):
        check_uses(living_uses(clients, outputs), deployed, chosen)
    for name, one in chosen.items():
        state = "keeping" if one == deployed.get(name) else "replacing" if name in deployed else "adding"
        report(f"{state} the strategy {name}: {', '.join(one.classes)}")
    for name in sorted(deployed.keys() - chosen.keys()):
        report(f"removing the strategy {name}: {', '.join(deployed[name].classes)}")
    return chosen


def _build(target: Path, architecture: str, extra: Sequence[tuple[str, Path]], report: Report) -> None:
    """Build the zip of the functions, with their dependencies if an ``architecture`` is given."""
    if architecture and architecture not in package.LAMBDA_MACHINES:
        message = f"Architecture is {architecture!r}; it takes {' or '.join(sorted(package.LAMBDA_MACHINES))}"
        raise SettingsError(message)
    report(f"building the functions{f' for {architecture}' if architecture else ''}")
    try:
        package.build_functions(target, architecture or None, extra=extra)
    except (subprocess.SubprocessError, OSError) as error:
        message = f"the functions could not be built, and nothing was deployed: {error}"
        raise StackError(message) from error


@stack.refusals()
def cloud_command(  # noqa: PLR0913 - the options of the command
    *,
    stack_name: str,
    parameters: Sequence[str],
    strategies: Sequence[Path],
    without_strategies: Sequence[str],
    dry_run: bool,
    timeout_minutes: float,
    account: str,
    artifact_bucket: str,
    output: str,
) -> None:
    """Create or update a stack, and print its outputs."""
    options = CloudOptions(
        stack=stack_name,
        parameters=_parameters(parameters),
        account=account,
        artifact_bucket=artifact_bucket,
        strategies=strategies,
        without_strategies=without_strategies,
        timeout=timeout_minutes * 60,
        dry_run=dry_run,
    )
    with reported_steps(output, dry_run=dry_run):
        outputs = deploy_cloud(stack.client, options, say)
        longest = max(map(len, outputs), default=0)
        for name, value in sorted(outputs.items()):
            say(f"{name:{longest}}  {value}")  # to be copied: never cut, never folded


def _parameters(pairs: Sequence[str]) -> dict[str, str]:
    """Return the values of ``--parameter`` by name. Raises SettingsError."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            message = f"--parameter is {pair!r}; it takes NAME=VALUE, such as FleetName=garden"
            raise SettingsError(message)
        found[name] = value
    return found
