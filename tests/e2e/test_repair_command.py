"""``fedgrass run repair`` on a deployed stack: rebuild all rounds of a run after its rows were deleted."""

import os
import subprocess
import sys
from collections.abc import Callable

import package
from cloud_functions.aws.dynamodb_table import marshal, unmarshal
from fedgrass.federation.runs import RunState
from tests.e2e.conftest import Watched
from tests.e2e.processes import wait_until


def test_a_run_whose_items_were_all_deleted_is_repaired_and_has_its_rounds(
    make_site: Callable[..., Watched],
) -> None:
    watched = make_site(1, tasks={"noise": {"megabytes": 0.1}})
    operator, run = watched.testbed.operator, "lost"
    watched.start(run, rounds=3, schedule="by_hand")
    watched.wait_for_line(run, "closed: models/lost/1.safetensors")
    operator.act("next", run)
    watched.wait_for_line(run, "closed: models/lost/2.safetensors")
    wait_until(lambda: operator.run(run).published == 2, "the second model to be made the newest")
    before = watched.rounds(run)
    _delete_all_items(watched)
    assert operator.runs() == {}
    said = _fedgrass(watched, "run", "repair", run, "--stack", "fedgrass", "--dry-run")
    assert operator.runs() == {}
    assert [line.replace("would write", "wrote") for line in said] == operator.repair(run)
    assert "would write round 2 attempt 1: CLOSED" in said
    assert watched.rounds(run) == before
    assert operator.run(run).state is RunState.PAUSED
    operator.act("resume", run)
    operator.act("next", run)
    assert watched.ended(run).reason == "all 3 rounds closed"
    assert operator.repair(run) == ["nothing is missing"]


def _fedgrass(watched: Watched, *arguments: str) -> list[str]:
    """Run the command; return the lines that it prints."""
    command = [sys.executable, "-m", "fedgrass.console.main", *arguments]
    environment = {**os.environ, **watched.testbed.cloud.environment()}
    done = subprocess.run(
        command, cwd=package.ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


def _delete_all_items(watched: Watched) -> None:
    client, table = watched.testbed.cloud.client("dynamodb"), watched.testbed.stack["RoundsTableName"]
    for item in client.scan(TableName=table, ConsistentRead=True)["Items"]:
        row = unmarshal(item)
        client.delete_item(TableName=table, Key=marshal({"run": row["run"], "item": row["item"]}))
