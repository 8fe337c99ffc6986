"""``fedgrass swarm``: the load test of a whole cloud."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedgrass.console.command_line import Output, StackOptions, number_between, whole_number
from fedgrass.console.deferred import deferred


def swarm(
    *,
    devices: Annotated[int, whole_number(1, 20_000, "light devices, each with its own certificate")] = 100,
    rounds: Annotated[int, whole_number(1, 10_000, "rounds of the run")] = 3,
    megabytes: Annotated[float, number_between(0.0001, 100, "size of an update, in MB")] = 0.1,
    ramp: Annotated[float, number_between(0.1, 1000, "devices that connect per second")] = 40.0,
    processes: Annotated[int, whole_number(1, 64, "processes that share the devices")] = 1,
    averagers: Annotated[
        int, whole_number(2, 1000, "averagers that count replies concurrently, in the embedded cloud")
    ] = 6,
    work_seconds: Annotated[float, number_between(0, 86_400, "seconds that a training takes")] = 0.0,
    slow: Annotated[float, number_between(0, 1, "share of devices that are slow")] = 0.0,
    slow_factor: Annotated[float, number_between(1, 10_000, "how many times as long they take")] = 10.0,
    vanish: Annotated[
        float,
        number_between(0, 1, "share of devices that accept a round and then disconnect silently"),
    ] = 0.0,
    return_: Annotated[
        float,
        number_between(
            0, 86_400, "seconds after which a vanished device connects again; 0: never", name="--return"
        ),
    ] = 0.0,
    double: Annotated[float, number_between(0, 1, "share of devices that send every message twice")] = 0.0,
    download: Annotated[bool, Parameter(help="the devices also download the global model")] = False,
    heartbeat_seconds: Annotated[float, number_between(5, 86_400, "interval of heartbeats")] = 60.0,
    seed: Annotated[int, whole_number(0, 2**32 - 1, "of the updates and of the churn")] = 0,
    setting: Annotated[
        tuple[str, ...],
        Parameter(help="a setting of the run: deadline_seconds=60, threshold=0.8", metavar="KEY=VALUE"),
    ] = (),
    stack: Annotated[
        str,
        Parameter(
            help="a deployed stack to test, instead of an embedded cloud on this machine", metavar="NAME"
        ),
    ] = "",
    profile: Annotated[str, Parameter(help="profile of the AWS CLI (AWS_PROFILE)", metavar="NAME")] = "",
    region: Annotated[str, Parameter(help="AWS region of the stack (AWS_REGION)", metavar="NAME")] = "",
    things: Annotated[
        Path | None,
        Parameter(
            help="with --stack: folder of things that `fedgrass fleet provision` wrote, instead of new ones",
            metavar="FOLDER",
        ),
    ] = None,
    yes: Annotated[bool, Parameter(help="with --stack: create and remove things without asking")] = False,
    out: Annotated[Path, Parameter(help="folder in which <swarm>/ is written", metavar="FOLDER")] = Path(
        "runs"
    ),
    output: Output = "text",
) -> None:
    """Load-test a cloud, embedded or deployed, with thousands of light devices.

    Each device has its own MQTT session over TLS, its own certificate and credentials, and speaks the real
    protocol with prepared updates. The report has how long rounds and replies took, whether each reply was
    counted exactly once, and what the bottleneck was.

    Exit code: 0 if every round closed and each reply was counted exactly once, 1 if not, 2 for options, a
    machine or a cloud that cannot be used.
    """
    StackOptions(stack, profile, region).use()
    deferred("fedgrass.swarm.swarm_action:main")(
        devices=devices,
        rounds=rounds,
        megabytes=megabytes,
        ramp=ramp,
        processes=processes,
        averagers=averagers,
        settings=setting,
        habits={
            "work_seconds": work_seconds,
            "slow": slow,
            "slow_factor": slow_factor,
            "vanish": vanish,
            "return_seconds": return_,
            "doubled": double,
            "downloads": download,
            "heartbeat_seconds": heartbeat_seconds,
            "megabytes": megabytes,
            "seed": seed,
        },
        stack=stack,
        things=things,
        confirmed=yes,
        output=output,
        out=out,
    )
