"""A ServerApp in a container: the requests to ECS and S3, checked against AWS's models of the services."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import ANY

import package
from cloud_functions.aws.s3 import S3Bucket
from fedgrass.console import stack
from fedgrass.console.flower.app_archive import pack, unpack
from fedgrass.console.flower.detached_run import DetachedRun, command_line
from fedgrass.console.flower.server_app_task import Network
from fedgrass.console.main import parse
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.stack import StackError
from fedgrass.federation.errors import SettingsError
from tests.fakes.stubbed_aws import StubbedAws

CLUSTER = "arn:aws:ecs:eu-west-1:123456789012:cluster/presses"
DEFINITION = "arn:aws:ecs:eu-west-1:123456789012:task-definition/presses:3"
TASK = "arn:aws:ecs:eu-west-1:123456789012:task/presses/0123abcd"
OUTPUTS = {
    "BucketName": "bucket",
    "ServerAppCluster": CLUSTER,
    "ServerAppTask": DEFINITION,
    "ServerAppNetwork": "subnet-1a,subnet-2b;sg-3c;yes",
    "ServerAppLogGroup": "/fedgrass/presses/server-app",
}
ROUNDS = {"InitiatorName": "initiator", "RoundsTableName": "rounds", "DevicesTableName": "devices"}
APP = package.ROOT / "tests" / "apps" / "numpy_mean"
KEY = "rounds/nightly/server_app.zip"


def detached(aws: StubbedAws, **changed: str) -> DetachedRun:
    return DetachedRun(aws.client, "presses", {**OUTPUTS, **changed}, "nightly")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "pyproject.toml").write_text("[project]")
    return {"pyproject.toml": tmp_path / "pyproject.toml"}


def expect_none_running(aws: StubbedAws) -> None:
    aws.expect(
        "ecs", "list_tasks", {"taskArns": []}, cluster=CLUSTER, startedBy="nightly", desiredStatus="RUNNING"
    )


def expect_start(aws: StubbedAws, answer: dict[str, Any], groups: tuple[str, ...] = ("sg-3c",)) -> None:
    network = {
        "subnets": ["subnet-1a", "subnet-2b"],
        "securityGroups": list(groups),
        "assignPublicIp": "ENABLED",
    }
    override = {"name": "server-app", "command": ["flower", "serve", "nightly", "--stack", "presses"]}
    aws.expect(
        "ecs",
        "run_task",
        answer,
        cluster=CLUSTER,
        taskDefinition=DEFINITION,
        launchType="FARGATE",
        count=1,
        startedBy="nightly",
        networkConfiguration={"awsvpcConfiguration": network},
        overrides={"containerOverrides": [override]},
        clientToken=ANY,
    )


def test_the_app_is_uploaded_once_and_its_task_started_and_the_operator_told_how_to_follow_it(
    files: dict[str, Path],
) -> None:
    aws, data = StubbedAws(), pack(files, ["count=3"])
    aws.expect("s3", "put_object", {}, Bucket="bucket", Key=KEY, Body=data, IfNoneMatch="*")
    expect_none_running(aws)
    expect_start(aws, {"tasks": [{"taskArn": TASK}], "failures": []})
    said = detached(aws).start(files, ["count=3"])
    aws.all_came()
    assert said[0] == f"the ServerApp of the run 'nightly' starts on Fargate, as {TASK}"
    assert "fedgrass run status nightly --stack presses" in said[1]
    assert "/fedgrass/presses/server-app --follow --log-stream-names run/server-app/0123abcd" in said[2]
    assert said[-1].endswith("fedgrass flower resume nightly --detach --stack presses")


def test_a_second_app_under_the_name_of_a_run_is_refused(files: dict[str, Path]) -> None:
    aws = StubbedAws()
    aws.refuse("s3", "put_object", "PreconditionFailed", Bucket="bucket", Key=KEY, Body=ANY, IfNoneMatch="*")
    body = type("Body", (), {"read": lambda self: b"another"})()  # noqa: ARG005 - as botocore calls it
    aws.expect("s3", "get_object", {"Body": body}, Bucket="bucket", Key=KEY)
    with pytest.raises(SettingsError, match=f"another app is at {KEY}: choose another --name"):
        detached(aws).start(files, [])
    aws.all_came()


def test_a_server_app_that_is_running_is_not_started_twice(files: dict[str, Path]) -> None:
    aws = StubbedAws()
    aws.expect("s3", "put_object", {}, Bucket="bucket", Key=KEY, Body=ANY, IfNoneMatch="*")
    aws.expect(
        "ecs",
        "list_tasks",
        {"taskArns": [TASK]},
        cluster=CLUSTER,
        startedBy="nightly",
        desiredStatus="RUNNING",
    )
    with pytest.raises(SettingsError, match=f"running already, as {TASK}.*fedgrass run cancel nightly"):
        detached(aws).start(files, [])
    aws.all_came()


def test_a_refusal_of_ecs_is_reported_with_its_reason() -> None:
    aws = StubbedAws()
    aws.expect("s3", "head_object", {}, Bucket="bucket", Key=KEY)
    expect_none_running(aws)
    expect_start(aws, {"tasks": [], "failures": [{"reason": "RESOURCE:ENI", "detail": "none is free"}]}, ())
    with pytest.raises(
        StackError, match="did not start the ServerApp of the run 'nightly': RESOURCE:ENI none is"
    ):
        detached(aws, ServerAppNetwork="subnet-1a,subnet-2b;;yes").resume()
    aws.all_came()


def test_a_run_that_was_started_at_a_terminal_cannot_be_resumed_in_a_container() -> None:
    aws = StubbedAws()
    aws.refuse("s3", "head_object", "404", Bucket="bucket", Key=KEY)
    with pytest.raises(SettingsError, match="not started with --detach: resume it without --detach"):
        detached(aws).resume()


def test_a_stack_without_containers_or_subnets_is_refused_with_the_parameters_to_give() -> None:
    aws = StubbedAws()
    without = {name: value for name, value in OUTPUTS.items() if name != "ServerAppTask"}
    with pytest.raises(SettingsError, match=r"'presses' has no containers .* ServerAppImageTag=1"):
        DetachedRun(aws.client, "presses", without, "nightly")
    with pytest.raises(SettingsError, match=r"no subnets for containers.*ServerAppSubnets="):
        detached(aws, ServerAppNetwork=";;no")


def test_the_network_is_that_of_the_template_s_parameters() -> None:
    assert Network.from_output("subnet-1a;;no") == Network(["subnet-1a"], [], public_ip=False)
    assert Network.from_output("subnet-1a,subnet-2b;sg-1,sg-2;yes") == Network(
        ["subnet-1a", "subnet-2b"], ["sg-1", "sg-2"], public_ip=True
    )


def test_a_container_that_replaces_a_stopped_one_resumes_the_run() -> None:
    app, words = Path("apps/nightly"), ["where=region=north", "--name", "nightly"]
    assert command_line("nightly", app, words, "presses", known=False) == [
        "flower", "run", "apps/nightly", "where=region=north", "--name", "nightly", "--stack", "presses"
    ]  # fmt: skip
    again = command_line("nightly", app, words, "presses", known=True)
    assert again == ["flower", "resume", "nightly", "apps/nightly", "--stack", "presses"]


@pytest.mark.parametrize("known", [False, True])
def test_the_command_of_the_container_is_one_that_the_parser_takes(known: bool) -> None:  # noqa: FBT001
    words = [
        "deadline_seconds=9",
        "--name",
        "nightly",
        "--app-name",
        "mean",
        "--run-config",
        "lr=0.1 b='x y'",
    ]
    called = parse(command_line("nightly", Path("apps/nightly"), words, "presses", known=known))
    given = called.bound.arguments
    assert given["access"].stack == "presses"
    assert given["app"] == Path("apps/nightly")
    assert given["name"] == "nightly"
    if not known:
        assert given["settings"] == ("deadline_seconds=9",)
        assert (given["app_name"], given["run_config"]) == ("mean", tuple(words[-1:]))
    served = parse(["flower", "serve", "nightly", "--stack", "presses"])
    assert served.bound.arguments["name"] == "nightly"


def test_run_with_detach_uploads_the_app_with_all_that_its_command_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(APP, tmp_path / "app")
    aws, uploaded = StubbedAws(), list[bytes]()
    monkeypatch.setattr(stack, "outputs", lambda _: {**OUTPUTS, **ROUNDS})
    monkeypatch.setattr(stack, "client", aws.client)
    monkeypatch.setattr(Operator, "runs", lambda _: {})

    def write_once(_bucket: S3Bucket, _key: str, data: bytes) -> bytes:
        uploaded.append(data)
        return data

    monkeypatch.setattr(S3Bucket, "write_once", write_once)
    expect_none_running(aws)
    expect_start(aws, {"tasks": [{"taskArn": TASK}], "failures": []})
    given = ["app", "accept_seconds=9", "--name", "nightly", "--run-config", "num-server-rounds=7"]
    called = parse(["flower", "run", *given, "--detach", "--stack", "presses"])
    called()
    aws.all_came()
    assert "starts on Fargate" in capsys.readouterr().out
    assert unpack(uploaded[0], tmp_path / "there") == given[1:]
    assert (tmp_path / "there" / "pyproject.toml").read_text() == (APP / "pyproject.toml").read_text()
    assert (tmp_path / "there" / "numpy_mean" / "server_app.py").is_file()


def test_run_with_detach_refuses_what_run_refuses_before_anything_is_uploaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stack, "outputs", lambda _: pytest.fail("asked for the stack"))
    called = parse(["flower", "run", str(APP), "rounds=3", "--detach"])
    with pytest.raises(SettingsError, match="'rounds' is not a setting of a run with a ServerApp"):
        called()


def test_a_run_that_exists_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "outputs", lambda _: {**OUTPUTS, **ROUNDS})
    monkeypatch.setattr(stack, "client", StubbedAws().client)
    monkeypatch.setattr(Operator, "runs", lambda _: {"nightly": "RUNNING"})
    called = parse(["flower", "run", str(APP), "--name", "nightly", "--detach"])
    with pytest.raises(SettingsError, match="`fedgrass flower resume nightly --detach` continues it"):
        called()
