"""The campaign's world: the embedded cloud, and fleets of cores behind faulty links and proxies."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import package
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.live_view import Broker
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.local_fleet import ComponentBuild, Fleet
from fedgrass.local.testbed import build_trainer, create_observer, thing_names
from greengrass_emulator.core.core_settings import CoreSettings
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import profile_named
from greengrass_emulator.iot.iot_connection import IotConnection
from tests.chaos.faults import Faults
from tests.chaos.gateway import Gateway
from tests.chaos.kills import Kills
from tests.chaos.link import DisturbedConnection
from tests.chaos.pace import Pace

TASK, APP_TASK = "noise", "flower:chaos"
MEGABYTES = 0.02  # of the model that the task itself would make; runs have models of other sizes
# Groups of two replies if four updates reach 1 MB; larger models in shards.
JOBS_AT_ONCE = 2
LINGER_SECONDS = 1.0  # on half of the devices
PARAMETERS = {"GroupSize": "2", "GroupedMegabytes": "1", "ShardedMegabytes": "1"}


@dataclass(frozen=True)
class World:
    """One deployed stack with its fleet; several live side by side in one cloud."""

    name: str  # of the fleet
    cloud: EmbeddedCloud
    stack: Mapping[str, str]
    fleet: Fleet
    operator: Operator
    observer: Broker
    gateway: Gateway
    kills: Kills
    faults: Faults
    pace: Pace


class DisturbedCore(GreengrassCore):
    """A core whose connections to IoT Core all have faults."""

    def __init__(self, settings: CoreSettings, faults: Faults) -> None:
        self._faults = faults
        self._thing = settings.thing_name
        self._connections = 0
        super().__init__(settings, self._connect_badly)

    def _connect_badly(self) -> IotConnection:
        self._connections += 1
        place = f"{self._thing}, connection {self._connections}"
        return DisturbedConnection(self._connect_by_mqtt(), self._faults, place)


@contextmanager
def open_worlds(
    folder: Path, fleets: Sequence[str], devices: int, faults: Faults, pace: Pace
) -> Iterator[list[World]]:
    """Set up a stack with a fleet of ``devices`` for each name, in ``folder``; tear all down at the end."""
    build = build_trainer(folder / "build")
    package.build_functions(folder / "build" / "cloud_functions.zip")
    with ExitStack() as stack:
        cloud = stack.enter_context(EmbeddedCloud(folder / "cloud"))
        yield [
            stack.enter_context(_open(folder, cloud, build, name, devices, faults, pace)) for name in fleets
        ]


@contextmanager
def _open(  # noqa: PLR0913, PLR0917 - what all worlds share, and what is specific to this one
    folder: Path,
    cloud: EmbeddedCloud,
    build: ComponentBuild,
    name: str,
    devices: int,
    faults: Faults,
    pace: Pace,
) -> Iterator[World]:
    functions = folder / "build" / "cloud_functions.zip"
    parameters = {"FleetName": name, "DeviceRoleAlias": "no", **PARAMETERS, **pace.parameters}
    outputs = cloud.deploy(name, package.ROOT / "template.yaml", functions, parameters)
    kills = Kills(faults, name)
    port = int(cloud.endpoint_url.rpartition(":")[2])
    with Gateway(port, faults, kills, name, pace) as gateway:
        for client, output in (("initiator", "InitiatorName"), ("averager", "AveragerName")):
            _send_through(cloud.client("lambda"), outputs[output], gateway.url(client))
        _limit_jobs(cloud.client("lambda"), outputs["AveragerName"])
        with Fleet(
            cloud,
            outputs,
            folder / "cores",
            profile_named("classic"),
            endpoint_url=gateway.url("devices"),
            make_core=lambda settings: DisturbedCore(settings, faults),
        ) as fleet:
            fleet.start(build, _configurations(name, devices))
            operator = Operator(cloud.client, outputs)
            observer = create_observer(cloud, name, folder / "observer" / name)
            yield World(name, cloud, outputs, fleet, operator, observer, gateway, kills, faults, pace)


def _send_through(client: Any, function: str, endpoint_url: str) -> None:
    """Change a function's endpoint of AWS; Lambda then starts new processes."""
    variables = client.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    variables["AWS_ENDPOINT_URL"] = endpoint_url
    client.update_function_configuration(FunctionName=function, Environment={"Variables": variables})


def _limit_jobs(client: Any, function: str) -> None:
    """Limit how many averagers do jobs at once: on a laptop each is a process to start."""
    for mapping in client.list_event_source_mappings(FunctionName=function)["EventSourceMappings"]:
        if mapping["BatchSize"] == 1:
            limit = {"MaximumConcurrency": JOBS_AT_ONCE}
            client.update_event_source_mapping(UUID=mapping["UUID"], ScalingConfig=limit)


def _configurations(fleet: str, devices: int) -> dict[str, dict[str, object]]:
    common = {"fleet": fleet, "heartbeat_seconds": 2, "warm_seconds": 600, "python": sys.executable}
    # By its folder: another checkout installed in this environment also has a package `tests`.
    task = {"module": "restless_noise:RestlessNoise", "path": str(Path(__file__).parent)}
    answering = {**task, "module": "answering_noise:AnsweringNoise"}
    return {
        # Devices of different weight, so that the weighted mean differs from the plain one.
        f"{fleet}-{thing}": {
            **common,
            "tasks": {
                TASK: {
                    **task,
                    "megabytes": MEGABYTES,
                    # The last one claims more than the cap.
                    "examples": 10 * index + 7 if index < devices - 1 else 500,
                    "linger": LINGER_SECONDS if index >= devices // 2 else 0.0,
                },
                APP_TASK: {
                    **answering,
                    "examples": 10 * index + 7,
                    "linger": LINGER_SECONDS if index >= devices // 2 else 0.0,
                },
            },
        }
        for index, thing in enumerate(thing_names(devices))
    }
