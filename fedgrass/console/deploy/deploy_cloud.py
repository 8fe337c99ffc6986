"""``fedgrass deploy cloud``: build the functions, upload the template, create or update the stack.

The sizes of the template's IoT policies are checked first: AWS refuses a document of more than 2,048
characters, but only minutes into the deployment. A policy repeats the region and the fleet's name in
every ARN, so a long name in a region with a long name exceeds the limit.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from fedgrass.console.deploy.deploy_package import Artifacts, packaged, read_template
from fedgrass.console.deploy.deploy_stack import Say, Stack
from fedgrass.console.provisioning.core_installation import LARGEST_DOCUMENT
from fedgrass.console.stack import StackError
from fedgrass.federation.conversion import nearest
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


Clients = Callable[[str], Any]
TIMEOUT_SECONDS = 1800.0
MARK = "InitiatorName"  # the output by which a stack of fedgrass is known
ALIAS = "DeviceRoleAlias"
RESERVED = ("InitiatorConcurrency", "AveragerConcurrency")  # parameters that reserve functions; 0 for none
LEAST_UNRESERVED = 100  # functions that AWS keeps for all others of an account, or all of a smaller quota
_MORE = "ask AWS for more (Service Quotas, `Concurrent executions` of Lambda)"
STACK_NAME = "[a-zA-Z][-a-zA-Z0-9]{0,127}"  # as CloudFormation takes it


@dataclass(frozen=True)
class CloudOptions:
    """What is deployed, and where."""

    stack: str = "fedgrass"
    parameters: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    artifact_bucket: str = ""
    timeout: float = TIMEOUT_SECONDS
    dry_run: bool = False
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
    """Create or change the stack of a fleet from this checkout; return its outputs, none for a dry run.

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
    document = read_template(template)
    known = document.get("Parameters", {})
    parameters = choose_parameters(known, given, before)
    _check_fleet(cloudformation, options.stack, _chosen("FleetName", known, given, before))
    chosen = {name: _chosen(name, known, given, before) for name in known}
    check_policy_sizes(document, {**chosen, **_pseudo_parameters(clients, account)})
    if not emulated(cloudformation):
        reserved = _reserved(chosen) - _reserved({name: _chosen(name, known, {}, before) for name in known})
        check_concurrency(clients, reserved, started_at_once(document, chosen), say)
    artifacts = Artifacts(clients("s3"), account, options.stack, options.artifact_bucket)
    artifacts.check()
    architecture = _chosen("Architecture", known, given, before)
    with tempfile.TemporaryDirectory(prefix="fedgrass-deploy-") as folder:
        code = Path(folder) / "cloud_functions.zip"
        _build(code, "" if emulated(cloudformation) else architecture, say)
        artifacts.prepare()
        try:
            body = packaged(template, code, artifacts.upload)
            url = artifacts.upload_template(body)
            if options.dry_run:
                for line in stack.preview(url, parameters, options.timeout) or ["nothing would change"]:
                    say(line)
                artifacts.take_back()
                say("nothing was changed (--dry-run)")
                return {}
            changed = stack.apply(url, parameters, options.timeout)
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


def _pseudo_parameters(clients: Clients, account: str) -> dict[str, str]:
    meta = clients("cloudformation").meta
    return {"AWS::Region": meta.region_name, "AWS::Partition": meta.partition, "AWS::AccountId": account}


def started_at_once(template: Mapping[str, Any], chosen: Mapping[str, str]) -> int:
    """Return how many functions the queues of a template start at most, with these parameters."""
    events = (
        event
        for resource in template["Resources"].values()
        for event in resource.get("Properties", {}).get("Events", {}).values()
    )
    limits = [one.get("Properties", {}).get("ScalingConfig", {}).get("MaximumConcurrency") for one in events]
    return sum(int(chosen[one["Ref"]] if isinstance(one, Mapping) else one) for one in limits if one)


def _reserved(chosen: Mapping[str, str]) -> int:
    return sum(int(chosen[name]) for name in RESERVED if chosen[name].isdecimal())


def check_concurrency(clients: Clients, reserved: int, started: int, say: Say) -> None:
    """Check that the account may run as many functions at a time as a stack reserves and starts.

    Args:
        clients: gives the boto3 client of a service.
        reserved: functions, more than the stack has reserved already.
        started: functions at most, by its queues.
        say: gets a note if the account's quota is smaller than that, or cannot be read.

    Raises:
        SettingsError: AWS would refuse what the stack reserves.
    """
    try:
        limits = clients("lambda").get_account_settings()["AccountLimit"]
    except ClientError:
        say("note: these credentials may not read how many functions the account runs at a time")
        return
    most, free = limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]
    if reserved > 0 and free - reserved < min(LEAST_UNRESERVED, most):
        message = (
            f"{' and '.join(RESERVED)} reserve {reserved} functions, and the account, which runs"
            f" {most} at a time, has {free} that are not reserved, of which AWS keeps"
            f" {min(LEAST_UNRESERVED, most)}: reserve fewer, or 0, or {_MORE}"
        )
        raise SettingsError(message)
    if most < started:
        say(
            f"note: the account runs at most {most} functions at a time, as new accounts do, and this stack"
            f" starts up to {started}: rounds of many devices take longer, and the account's other"
            f" functions wait; {_MORE}"
        )


def _checkout() -> Path:
    import package  # noqa: PLC0415  # of the sources, in a checkout or in the wheel

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
