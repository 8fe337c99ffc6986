"""What the container of a ServerApp runs, with the role of its task, where IAM's policies are enforced.

The image and Fargate are not there: `fedgrass flower serve` is started as a process, which has the
credentials of the role alone, and its calls are compared with the permissions of template.yaml.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import package
from fedgrass.console.flower.app_archive import pack
from fedgrass.console.flower.flower_files import app_files
from fedgrass.console.flower.flower_project import read_project
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.local.testbed import Testbed, open_testbed
from tests.e2e.processes import wait_until
from tests.permissions.grants import Grant, grants, missing, statements_of_role, unused
from tests.permissions.intruder import credentials_of_role
from tests.permissions.needs import needs_of, read_calls
from tests.permissions.recorder import sitecustomize as recorder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = Path(package.ROOT) / "tests" / "chaos" / "server_app"
TASK = {"module": "answering_noise:AnsweringNoise", "path": str(APP.parent)}
RUN, LARGE = "nightly", 400_000  # float32 values: replies and contents are files of their own
# Granted, and not used by this app: uploads of more than one part.
UNUSED = {"s3:AbortMultipartUpload"}


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    trainer = {"tasks": {"flower:chaos": TASK}, "heartbeat_seconds": 2, "python": sys.executable}
    with open_testbed(
        tmp_path_factory.mktemp("testbed"),
        dict.fromkeys(("press-1", "press-2"), trainer),
        parameters={"ServerAppImageTag": "1", "ServerAppSubnets": "subnet-1a2b"},
        enforces=True,
    ) as opened:
        yield opened


def role_of(testbed: Testbed) -> str:
    """Return the name of the task's role."""
    ecs = testbed.cloud.client("ecs")
    described = ecs.describe_task_definition(taskDefinition=testbed.stack["ServerAppTask"])["taskDefinition"]
    return str(described["taskRoleArn"]).rsplit("/", 1)[-1]


def serve(
    testbed: Testbed, folder: Path, credentials: Mapping[str, str], calls: Path
) -> "subprocess.Popen[str]":
    """Start the command of the container with the credentials of its role."""
    names = {"AWS_ACCESS_KEY_ID": "AccessKeyId", "AWS_SECRET_ACCESS_KEY": "SecretAccessKey"}
    return subprocess.Popen(
        [sys.executable, "-m", "fedgrass.console.main", "flower", "serve", RUN],
        cwd=folder,
        env={
            **testbed.cloud.environment(),
            **{variable: credentials[name] for variable, name in names.items()},
            "AWS_SESSION_TOKEN": credentials["Token"],
            "AWS_LAMBDA_FUNCTION_NAME": "server-app",  # by which the recorder names the calls
            recorder.FOLDER: str(calls),
            "PYTHONPATH": os.pathsep.join([str(Path(recorder.__file__).parent), str(package.ROOT)]),
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_container_runs_the_app_is_replaced_when_it_is_stopped_and_needs_its_role_alone(
    testbed: Testbed, tmp_path: Path
) -> None:
    words = ["--name", RUN, "--run-config", f"num-server-rounds=4 values={LARGE}"]
    data = pack(app_files(read_project(APP)), words)
    s3, bucket = testbed.cloud.client("s3"), testbed.stack["BucketName"]
    s3.put_object(Bucket=bucket, Key=object_keys.server_app_files(RUN), Body=data)
    credentials = credentials_of_role(testbed.cloud, role_of(testbed))
    calls = tmp_path / "calls"
    calls.mkdir()

    first = serve(testbed, tmp_path, credentials, calls)
    try:
        wait_until(
            lambda: has_finished_a_step(tmp_path) or first.poll() is not None, "the end of a step", 120
        )
    finally:
        first.send_signal(signal.SIGTERM)  # as Fargate stops a task
        said, _ = first.communicate(timeout=60)
    assert first.returncode != 0, said
    assert testbed.operator.runs() == {RUN: RunState.RUNNING}, said

    second = serve(testbed, tmp_path, credentials, calls)
    said, _ = second.communicate(timeout=150)
    assert second.returncode == 0, said
    run = testbed.operator.run(RUN)
    assert (run.state, run.reason) == (RunState.SUCCEEDED, "the ServerApp has ended")
    assert {record.round.state for record in testbed.operator.rounds(run)} == {State.CLOSED}
    assert (tmp_path / "model-4.npz").is_file()

    recorded = read_calls(calls)
    assert [call for call in recorded if call.status in {401, 403}] == []
    needs = set().union(*(needs_of(call) for call in recorded))
    statements = statements_of_role(testbed.cloud.client("iam"), role_of(testbed))
    assert missing(statements, needs) == []
    idle: list[Grant] = unused(grants(statements), needs)
    assert {grant.action for grant in idle} <= UNUSED, idle


def has_finished_a_step(folder: Path) -> bool:
    journal = folder / "journal.jsonl"
    return journal.is_file() and bool(journal.read_text().strip())
