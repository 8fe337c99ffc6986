"""The cloud that a swarm tests: an embedded one that is started for it, or a deployed stack.

Both give the same: clients, an operator, the address for the devices, and things that are removed at the end.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Final

import package
from fedgrass.console import stack as deployed
from fedgrass.console.aws_clients import Clients
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.aws.thing_credentials import Credentials, CredentialsProvider, policy_of
from fedgrass.swarm.swarm_errors import SwarmError, SwarmOptionError
from fedgrass.swarm.swarm_measures import RequestMeter
from fedgrass.swarm.swarm_spec import CloudAddress, Identity
from fedgrass.swarm.swarm_things import SwarmThings, provisioned_things

if TYPE_CHECKING:
    from mypy_boto3_sts import STSClient

STACK: Final = "fedgrass"  # of the embedded cloud
_FLEET: Final = "swarm"
_VARIABLE: Final = "${credentials-iot:ThingName}"
_START_SECONDS: Final = 30.0
_LONGEST_SESSION: Final = 64  # characters of a session's name


@dataclass(frozen=True)
class SwarmCloud:
    """A cloud with the things of a swarm."""

    clients: Clients
    outputs: Mapping[str, str]
    operator: Operator
    address: CloudAddress
    things: Sequence[Identity]
    stack: str
    embedded: bool
    created: bool  # whether the swarm has made the things
    meter: RequestMeter | None = None  # of an embedded cloud


@contextmanager
def embedded_swarm_cloud(
    folder: Path, swarm: str, devices: int, *, averagers: int, report: Callable[[str], None]
) -> Iterator[SwarmCloud]:
    """Start an embedded cloud with a stack and ``devices`` things.

    Args:
        folder: for its state.
        swarm: name of the swarm.
        devices: number of things.
        averagers: concurrent averagers that count replies.
        report: called with a line per step.
    """
    functions = folder / "build" / "cloud_functions.zip"
    package.build_functions(functions)
    with EmbeddedCloud(folder / "cloud") as cloud:
        parameters = {
            "FleetName": _FLEET,
            "DeviceRoleAlias": "no",
            "ReplyConcurrency": str(averagers),
        }
        outputs = cloud.deploy(STACK, package.ROOT / "template.yaml", functions, parameters)
        report("the embedded cloud is running, template.yaml deployed")
        with things_of_embedded_cloud(cloud, outputs, folder, swarm, devices, report=report) as made:
            yield made


@contextmanager
def things_of_embedded_cloud(  # noqa: PLR0913 - the cloud, its stack, and what the swarm is
    cloud: EmbeddedCloud,
    outputs: Mapping[str, str],
    folder: Path,
    swarm: str,
    devices: int,
    *,
    stack: str = STACK,
    report: Callable[[str], None],
) -> Iterator[SwarmCloud]:
    """Create things in a running embedded cloud, and serve their credentials."""
    things = SwarmThings(cloud.client, swarm, outputs["DevicePolicyName"], folder / "things", grouped=False)
    with ExitStack() as exits:
        exits.callback(things.remove, report)
        made = things.create(devices, report)
        provider = exits.enter_context(_credentials_provider(cloud, outputs, folder, made))
        roots = folder / "roots.pem"
        roots.write_bytes(cloud.root_ca.read_bytes() + provider.certificate.read_bytes())
        address = CloudAddress(
            fleet=outputs["Fleet"],
            endpoint=cloud.iot_endpoint,
            port=cloud.mqtt_port,
            root_ca=str(roots),
            credentials_endpoint=provider.endpoint,
            role_alias=_alias(outputs),
            region=cloud.region,
            s3_url=cloud.endpoint_url,
        )
        operator = Operator(cloud.client, outputs)
        meter = RequestMeter(cloud.request_counts, cloud.client("dynamodb"))
        yield SwarmCloud(
            cloud.client, outputs, operator, address, made, stack, embedded=True, created=True, meter=meter
        )


@contextmanager
def deployed_swarm_cloud(  # noqa: PLR0913 - the stack, and what the swarm is
    stack: str, folder: Path, swarm: str, devices: int, *, things: Path | None, report: Callable[[str], None]
) -> Iterator[SwarmCloud]:
    """Use a deployed stack, with things of a folder or with things that are removed at the end.

    Raises:
        StackError: the stack does not exist, or AWS refuses.
        SwarmOptionError: the stack has no role alias, or the folder lacks things.
    """
    outputs = deployed.outputs(stack)
    if not outputs.get("DeviceRoleAlias"):
        message = (
            f"the stack {stack} has no role alias, by which devices get credentials: deploy it with"
            " DeviceRoleAlias=yes"
        )
        raise SwarmOptionError(message)
    iot = deployed.client("iot")
    endpoint, provider = (
        iot.describe_endpoint(endpointType=f"iot:{kind}")["endpointAddress"]
        for kind in ("Data-ATS", "CredentialProvider")
    )
    operator = Operator(deployed.client, outputs)
    address = CloudAddress(
        fleet=outputs["Fleet"],
        endpoint=endpoint,
        port=8883,
        root_ca="",
        credentials_endpoint=provider,
        role_alias=outputs["DeviceRoleAlias"],
        region=iot.meta.region_name,
    )
    with ExitStack() as exits:
        if things is not None:
            made = provisioned_things(things, devices)
        else:
            maker = SwarmThings(
                deployed.client, swarm, outputs["DevicePolicyName"], folder / "things", grouped=True
            )
            exits.callback(maker.remove, report)
            made = maker.create(devices, report)
        yield SwarmCloud(
            deployed.client,
            outputs,
            operator,
            address,
            made,
            stack,
            embedded=False,
            created=things is None,
        )


def _alias(outputs: Mapping[str, str]) -> str:
    return f"fedgrass-{outputs['Fleet']}"  # as template.yaml names it


@contextmanager
def _credentials_provider(
    cloud: EmbeddedCloud, outputs: Mapping[str, str], folder: Path, things: Sequence[Identity]
) -> Iterator[CredentialsProvider]:
    """Serve credentials of the device role to things, in an event loop on a separate thread."""
    log = logging.getLogger("fedgrass.swarm")
    provider = CredentialsProvider(_alias(outputs), _authorities(things, folder), folder / "provider", log)
    role = outputs["DeviceRoleArn"]
    # Read once: of a thousand devices each would read it, with its own name in place of the variable.
    policy = policy_of(cloud, role, _VARIABLE)
    for identity in things:
        provider.register(
            identity.thing, Path(identity.certificate), _assuming(cloud, role, policy, identity)
        )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="credentials", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(provider.start(), loop).result(_START_SECONDS)
        yield provider
    finally:
        asyncio.run_coroutine_threadsafe(provider.stop(), loop).result(_START_SECONDS)
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(_START_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_START_SECONDS)
        loop.close()


def _authorities(things: Sequence[Identity], folder: Path) -> Path:
    """Write the things' certificates to a file, each of which is its own authority."""
    path = folder / "authorities.pem"
    path.write_text("".join(Path(one.certificate).read_text(encoding="ascii") for one in things))
    return path


def _assuming(cloud: EmbeddedCloud, role: str, policy: str, identity: Identity) -> Credentials:
    def assume() -> Mapping[str, str]:
        sts: STSClient = cloud.client("sts")
        found = sts.assume_role(
            RoleArn=role,
            RoleSessionName=identity.thing[:_LONGEST_SESSION],
            Policy=policy.replace(_VARIABLE, identity.thing),
        )["Credentials"]
        return {
            "AccessKeyId": found["AccessKeyId"],
            "SecretAccessKey": found["SecretAccessKey"],
            "Token": found["SessionToken"],
            "Expiration": found["Expiration"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    return assume


def check_local(stack: str) -> None:
    """Refuse a stack of another embedded cloud, whose credentials provider is in another process.

    Raises:
        SwarmError: the environment names the endpoint of an embedded cloud.
    """
    if url := os.environ.get("AWS_ENDPOINT_URL"):
        message = (
            f"--stack {stack} is a stack of AWS, but AWS_ENDPOINT_URL is {url}, which has no credentials"
            " provider: leave out --stack to start an embedded cloud here, or unset the variable"
        )
        raise SwarmError(message)
