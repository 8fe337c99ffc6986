"""A swarm against the embedded cloud: churn and doubled messages, and each reply is counted exactly once."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import package
from fedgrass.console.aws_clients import Clients
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.swarm import swarm_picture
from fedgrass.swarm.swarm_action import SwarmOptions, run_settings
from fedgrass.swarm.swarm_cloud import SwarmCloud, things_of_embedded_cloud
from fedgrass.swarm.swarm_errors import SwarmError
from fedgrass.swarm.swarm_run import SwarmPlan, run_swarm
from fedgrass.swarm.swarm_spec import Habits

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
DEVICES, STACK = 20, "swarm"


@pytest.fixture(scope="module")
def outputs(
    embedded_cloud: EmbeddedCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    functions = tmp_path_factory.mktemp("functions") / "cloud_functions.zip"
    package.build_functions(functions)
    template = package.ROOT / "template.yaml"
    parameters = {"FleetName": "swarm", "DeviceRoleAlias": "no"}
    yield embedded_cloud.deploy(STACK, template, functions, parameters)
    embedded_cloud.client("cloudformation").delete_stack(StackName=STACK)


@pytest.fixture
def cloud(
    embedded_cloud: EmbeddedCloud, outputs: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[SwarmCloud]:
    swarm = f"swarm-{abs(hash(request.node.name)) % 10_000}"
    with things_of_embedded_cloud(
        embedded_cloud, outputs, tmp_path, swarm, DEVICES, stack=STACK, report=print
    ) as made:
        yield made
    left = [one["thingName"] for one in _clients(embedded_cloud)("iot").list_things()["things"]]
    assert not [name for name in left if name.startswith(swarm)]


def _clients(cloud: EmbeddedCloud) -> Clients:
    return cloud.client


def _plan(cloud: SwarmCloud, habits: Habits, *settings: str) -> SwarmPlan:
    swarm = cloud.things[0].thing.rpartition("-")[0]
    options = SwarmOptions(rounds=2, habits=habits, settings=settings)
    return SwarmPlan(
        swarm=swarm,
        settings=run_settings(options, swarm),
        habits=habits,
        ramp=20.0,
        processes=2,
        reply_concurrency=2,
        meter=cloud.meter,
    )


def test_with_churn_and_doubled_messages_each_reply_is_counted_once(cloud: SwarmCloud) -> None:
    habits = Habits(
        megabytes=0.01,
        work_seconds=0.2,
        slow=0.2,
        vanish=0.3,
        return_seconds=0.5,
        doubled=0.5,
        downloads=True,
        seed=2,
    )
    measured = run_swarm(cloud, _plan(cloud, habits), print)
    report = measured.report
    assert (report.state, report.exact) == ("SUCCEEDED", True)
    assert report.replies_counted == report.replies_sent == 2 * DEVICES
    assert report.completions > report.replies_sent  # doubled
    assert report.churn.vanished == report.churn.returned > 0
    assert [one.asked for one in report.rounds] == [DEVICES, DEVICES]
    assert all(one.mark_error is not None and one.mark_error < 1e-6 for one in report.rounds)
    assert report.dynamodb is not None
    assert report.dynamodb.by_operation["TransactWriteItems"] >= 2 * DEVICES / 10  # in batches of ten
    assert report.functions["averager"].billed_seconds > 0
    assert report.messages.received >= 3 * DEVICES
    assert report.load.groups["swarm"] > 0
    assert swarm_picture.draw(measured).startswith(b"\x89PNG")
    assert msgspec.json.decode(msgspec.json.encode(report))["bottleneck"]


def test_rounds_without_a_quorum_end_the_run_with_the_reason(cloud: SwarmCloud) -> None:
    habits = Habits(megabytes=0.001, vanish=1.0)
    settings = ("deadline_seconds=5", "minimum_replies=15", "attempts=1", "accept_seconds=0")
    report = run_swarm(cloud, _plan(cloud, habits, *settings), print).report
    assert (report.state, report.exact, report.replies_counted) == ("FAILED", False, 0)
    assert "0 of 20 replied" in report.rounds[0].reason
    assert report.reason


def test_a_broker_that_refuses_the_certificates_is_named(
    cloud: SwarmCloud, embedded_cloud: EmbeddedCloud
) -> None:
    iot = _clients(embedded_cloud)("iot")
    for identity in cloud.things:
        (principal,) = iot.list_thing_principals(thingName=identity.thing)["principals"]
        iot.update_certificate(certificateId=principal.rpartition("/")[2], newStatus="INACTIVE")
    with pytest.raises(SwarmError, match=r"swarm-\d+-000\d\d at localhost:\d+: the broker"):
        run_swarm(cloud, _plan(cloud, Habits(megabytes=0.001)), print)
