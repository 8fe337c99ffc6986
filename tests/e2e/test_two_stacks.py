"""Two stacks in one account: each fleet trains separately, and removing them leaves nothing behind."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from components.trainer.tasks.noise import Noise
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import decode
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.local_fleet import Fleet
from fedgrass.local.testbed import build_trainer
from greengrass_emulator.core.profiles import profile_named
from tests.deployed import fedgrass, inventory
from tests.e2e.processes import wait_until

pytestmark = pytest.mark.timeout(400)

FLEETS = ("meadow", "orchard")
SETTINGS = {"task": "noise", "rounds": 2, "deadline_seconds": 60, "evaluate_last": False}


@dataclass
class Trained:
    """Two stacks, each with a fleet of one device and a finished run."""

    cloud: EmbeddedCloud
    folder: Path
    stacks: dict[str, dict[str, str]]
    operators: dict[str, Operator]
    runs: dict[str, Run]
    before: set[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("two-stacks")
    with EmbeddedCloud(folder / "cloud") as cloud, ExitStack() as fleets:
        found = Trained(cloud, folder, {}, {}, {}, inventory(cloud.client))
        build = build_trainer(folder / "build")
        for name in FLEETS:
            code, said = fedgrass(
                cloud, folder, "deploy", "cloud", "--stack", name, "--parameter", f"FleetName={name}"
            )
            assert code == 0, said
            outputs = cloud.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
            found.stacks[name] = {output["OutputKey"]: output["OutputValue"] for output in outputs}
            found.operators[name] = Operator(cloud.client, found.stacks[name])
            fleet = fleets.enter_context(
                Fleet(cloud, found.stacks[name], folder / name, profile_named("lite"))
            )
            configuration = {"fleet": name, "python": sys.executable, "heartbeat_seconds": 5}
            fleet.start(build, {f"{name}-device": {**configuration, "tasks": {"noise": {"megabytes": 0.1}}}})
        for name, operator in found.operators.items():
            wait_until(operator.devices, f"{name}'s device to register")
            operator.start("run-1", parse_settings(SETTINGS), Noise(0.1).initial_weights(seed=len(name)))
        for name, operator in found.operators.items():
            wait_until(partial(_is_over, operator), f"the end of {name}'s run", 90)
            found.runs[name] = operator.run("run-1")
        fleets.close()
        yield found


def _is_over(operator: Operator) -> bool:
    return operator.run("run-1").state is not RunState.RUNNING


def test_each_run_of_the_same_name_ends_with_its_own_device_and_model(trained: Trained) -> None:
    models = {}
    for name, operator in trained.operators.items():
        assert trained.runs[name].state is RunState.SUCCEEDED, trained.runs[name].reason
        assert [device.device for device in operator.devices()] == [f"{name}-device"]
        asked = [
            [reply.device for reply in record.participants] for record in operator.rounds(trained.runs[name])
        ]
        assert asked == [[f"{name}-device"]] * 2
        models[name] = decode(operator.model("run-1", 2))["bias"]
    first, second = models.values()
    assert first.shape == second.shape
    assert (first != second).all()


def test_nothing_of_one_fleet_is_stored_with_the_other(trained: Trained) -> None:
    s3, dynamodb = trained.cloud.client("s3"), trained.cloud.client("dynamodb")
    for name in FLEETS:
        (other,) = set(FLEETS) - {name}
        stack = trained.stacks[name]
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=stack["BucketName"])["Contents"]]
        assert f"updates/{name}-device/run-1/2-1.safetensors" in keys
        assert not [key for key in keys if other in key]
        for table in ("DevicesTableName", "TurnaroundsTableName", "RoundsTableName"):
            rows = json.dumps(dynamodb.scan(TableName=stack[table])["Items"], default=str)
            assert f"{name}-device" in rows
            assert other not in rows


def test_turnarounds_expire_in_a_year(trained: Trained) -> None:
    table = trained.stacks["meadow"]["TurnaroundsTableName"]
    for row in trained.cloud.client("dynamodb").scan(TableName=table)["Items"]:
        seconds = int(row["received_at"]["N"]) // 1000
        # The rule evaluates timestamp() for each of the two.
        assert abs(float(row["expires_at"]["N"]) - (seconds + 365 * 86400)) <= 1


def test_a_fleets_queues_hold_no_message_that_could_not_be_dealt_with(trained: Trained) -> None:
    for name in FLEETS:
        assert fedgrass(trained.cloud, trained.folder, "queue", "show", "--stack", name) == (
            0,
            "0 dead letters\n",
        )


def test_taken_down_with_their_data_they_leave_nothing(trained: Trained) -> None:
    down = ("deploy", "down", "--stack")
    cloud, folder = trained.cloud, trained.folder
    full = inventory(cloud.client)
    code, said = fedgrass(cloud, folder, *down, "meadow", "--dry-run", "--delete-data")
    assert code == 0, said
    for words in ("Averager (AWS::Lambda::Function)", "data: bucket", "the device policy is detached from"):
        assert words in said
    assert inventory(cloud.client) == full, "a dry run removed something"
    code, said = fedgrass(cloud, folder, *down, "meadow", "--delete-data")
    assert (code, inventory(cloud.client)) == (1, full), said
    assert "no terminal to ask" in said

    code, said = fedgrass(cloud, folder, *down, "meadow", "--delete-data", "--yes")
    assert code == 0, said
    left = inventory(cloud.client) - trained.before
    assert left
    assert not [thing for thing in left if "meadow" in thing]

    # The data of the other stack remain after its deletion, until --delete-data.
    code, said = fedgrass(cloud, folder, *down, "orchard", "--yes")
    assert code == 0, said
    bucket, table = (trained.stacks["orchard"][name] for name in ("BucketName", "RoundsTableName"))
    assert inventory(cloud.client) - trained.before == {
        f"s3 list_buckets: {bucket}",
        f"dynamodb list_tables: {table}",
    }
    code, said = fedgrass(cloud, folder, *down, "orchard", "--yes", "--delete-data")
    assert code == 0, said
    assert inventory(cloud.client) == trained.before
    code, said = fedgrass(cloud, folder, *down, "orchard", "--yes", "--delete-data")
    assert (code, said) == (0, "there are no resources of a stack 'orchard' in account 000000000000\n")
