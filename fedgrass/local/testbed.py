"""A testbed on a laptop: the embedded cloud with the deployed stack, a fleet of cores, and an observer.

The certificate of the observer lets a developer on this machine subscribe to the topics of the fleet.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

import package
from fedgrass import __version__
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.live_view import Broker
from fedgrass.console.strategies.custom_strategies import read_strategy, write_files
from fedgrass.console.strategies.strategy_check import checked
from fedgrass.federation import topics
from fedgrass.local.aws.embedded_cloud import ACCOUNT, EmbeddedCloud
from fedgrass.local.fleet_start import MOST_DEVICES, averagers_for, check_memory, progress_of, seconds_for
from fedgrass.local.local_errors import FedgrassLocalError, ThingCreationError
from fedgrass.local.local_fleet import ComponentBuild, Fleet
from greengrass_emulator.core.profiles import profile_named

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

_OBSERVER = "observer"
_CLIENT_PREFIX = "observer-"
TRAINER = "com.fedgrass.Trainer"
_REGISTER_SECONDS = 60.0


def create_observer(cloud: EmbeddedCloud, fleet: str, folder: Path) -> Broker:
    """Create an observer of a fleet, and write its certificate and key to ``folder``.

    Returns:
        The address of the broker with the observer's certificate.

    Raises:
        ThingCreationError: the thing or its policy could not be created.
    """
    name, everything = f"{_OBSERVER}-{fleet}", f"{topics.everything(fleet).removesuffix('#')}*"
    resources = {
        "iot:Connect": f"client/{_CLIENT_PREFIX}*",
        "iot:Subscribe": f"topicfilter/{everything}",
        "iot:Receive": f"topic/{everything}",
    }
    statements = [
        {"Effect": "Allow", "Action": action, "Resource": f"arn:aws:iot:{cloud.region}:{ACCOUNT}:{resource}"}
        for action, resource in resources.items()
    ]
    iot: IoTClient = cloud.client("iot")
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    try:
        with suppress(iot.exceptions.ResourceAlreadyExistsException):
            iot.create_policy(policyName=name, policyDocument=document)
    except (ClientError, BotoCoreError) as error:
        message = f"the policy {name!r} of the fleet's observer could not be created: {error}"
        raise ThingCreationError(message) from error
    files = cloud.create_thing(name, folder, name)
    return Broker(
        cloud.iot_endpoint,
        cloud.mqtt_port,
        cloud.root_ca,
        files.certificate,
        files.private_key,
        _CLIENT_PREFIX,
    )


class TestbedError(FedgrassLocalError):
    """The testbed cannot be started."""


@dataclass(frozen=True)
class Testbed:
    """The parts of a running testbed."""

    cloud: EmbeddedCloud
    stack: Mapping[str, str]
    fleet: Fleet
    operator: Operator
    observer: Broker
    folder: Path


def thing_names(devices: int, kind: str = "device") -> list[str]:
    """Return the names of ``devices`` things. Raises TestbedError if that is too many for one machine."""
    if not 1 <= devices <= MOST_DEVICES:
        message = f"{devices} devices cannot run on one machine: choose 1 to {MOST_DEVICES}"
        raise TestbedError(message)
    width = len(str(devices))
    return [f"{kind}-{number:0{width}}" for number in range(1, devices + 1)]


@contextmanager
def open_testbed(  # noqa: PLR0913 - one argument per option of the demo
    folder: Path,
    configurations: Mapping[str, Mapping[str, object]],
    *,
    fleet_name: str = "fedgrass",
    profile: str = "classic",
    ports: tuple[int, int] = (0, 0),
    plain: Mapping[str, Mapping[str, object]] | None = None,
    tasks: Sequence[ComponentBuild] = (),
    parameters: Mapping[str, str] | None = None,
    strategies: Sequence[Path] = (),
    enforces: bool = False,
    report: Callable[[str], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Testbed]:
    """Start a testbed in ``folder``, and stop it on exit.

    Args:
        folder: for the state of the cloud and of the cores.
        configurations: the trainer's configuration, by thing name.
        fleet_name: name of the fleet, the second level of its topics.
        profile: nucleus that the cores emulate, ``classic`` or ``lite``.
        ports: ports of the cloud's AWS API and of its MQTT broker; 0: any free port.
        plain: the trainer's configuration of devices without Greengrass, by thing name.
        tasks: components of tasks, deployed before the trainer.
        parameters: further parameters of the template.
        strategies: files and package folders of custom strategies to deploy.
        enforces: whether IAM and IoT policies are enforced, as on AWS.
        report: called with a line per step.
        check: called repeatedly while the devices start; an error that it raises ends the start.
    """
    check_memory(len(configurations), len(plain or {}))
    chosen = profile_named(profile)
    build = build_trainer(folder / "build")
    functions = folder / "build" / "cloud_functions.zip"
    custom = {one.module: one for one in checked([read_strategy(path) for path in strategies])}
    package.build_functions(functions, extra=write_files(custom, folder / "build" / "strategies"))
    with ExitStack() as stack:
        started = time.monotonic()
        cloud = stack.enter_context(
            EmbeddedCloud(folder / "cloud", gateway_port=ports[0], mqtt_port=ports[1], enforces=enforces)
        )
        outputs = cloud.deploy(
            "fedgrass",
            package.ROOT / "template.yaml",
            functions,
            {
                "FleetName": fleet_name,
                "DeviceRoleAlias": "no",
                "ReplyConcurrency": str(averagers_for(len(configurations) + len(plain or {}))),
                **(parameters or {}),
            },
        )
        report(f"the cloud is running, template.yaml deployed ({time.monotonic() - started:.1f} s)")
        observer = create_observer(cloud, fleet_name, folder / "observer")
        check()
        started = time.monotonic()
        fleet = stack.enter_context(Fleet(cloud, outputs, folder / "cores", chosen))
        common = {"fleet": fleet_name, "python": sys.executable}
        cores = {thing: {**common, **chosen} for thing, chosen in configurations.items()}
        fleet.start(build, cores, tasks, progress_of(report, len(cores), "Greengrass cores"))
        without = {thing: {"fleet": fleet_name, **chosen} for thing, chosen in (plain or {}).items()}
        if without:
            fleet.start_plain(without, tasks, progress_of(report, len(without), "devices without Greengrass"))
        operator = Operator(cloud.client, outputs)
        _wait_for_devices(operator, len(configurations) + len(without), check)
        also = f", {len(without)} devices without Greengrass run it with plain MQTT," if without else ""
        report(
            f"{len(configurations)} Greengrass cores ({profile}) run {TRAINER} {__version__}{also}"
            f" and have sent a heartbeat ({time.monotonic() - started:.1f} s)"
        )
        yield Testbed(cloud, outputs, fleet, operator, observer, folder)


def build_trainer(folder: Path) -> ComponentBuild:
    """Build the trainer component like ``gdk component build``, in the version of fedgrass."""
    package.build_component(TRAINER, __version__, "fedgrass", folder)
    return ComponentBuild(TRAINER, folder / "recipes" / f"{TRAINER}.yaml", folder / "artifacts")


def _wait_for_devices(operator: Operator, count: int, check: Callable[[], None]) -> None:
    seconds = _REGISTER_SECONDS + seconds_for(count)
    deadline = time.monotonic() + seconds
    while (registered := len(operator.devices())) < count:
        check()
        if time.monotonic() > deadline:
            message = f"only {registered} of {count} devices sent a heartbeat within {seconds:.0f} s"
            raise TestbedError(message)
        time.sleep(0.1)
