"""`fedgrass deploy cloud` and `deploy down` in the embedded cloud, and what remains after a refusal."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import WaiterError
from botocore.stub import Stubber

import package
from fedgrass.console.deploy.deploy_cloud import CloudOptions, deploy_cloud
from fedgrass.console.deploy.deploy_package import Artifacts
from fedgrass.console.deploy.deploy_stack import Stack
from fedgrass.console.deploy.teardown import Removal, empty_bucket
from fedgrass.console.flower.server_app_task import ServerAppTasks
from fedgrass.console.main import parse
from fedgrass.console.stack import StackError
from fedgrass.federation.errors import SettingsError
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.deployed import fedgrass, inventory

pytestmark = pytest.mark.timeout(180)

ACCOUNT = "000000000000"
POLL = 0.05


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCloud]:
    """A separate cloud for this module, whose inventory only these tests change."""
    with EmbeddedCloud(tmp_path_factory.mktemp("deploy-cloud")) as running:
        yield running


def deploy(cloud: EmbeddedCloud, stack: str, **parameters: str) -> tuple[Mapping[str, str], list[str]]:
    said: list[str] = []
    options = CloudOptions(stack=stack, parameters=parameters, poll_seconds=POLL, timeout=60)
    return deploy_cloud(cloud.client, options, said.append), said


def take_down(cloud: EmbeddedCloud, stack: str, *, data: bool = True) -> list[str]:
    said: list[str] = []
    removal = Removal(cloud.client, ACCOUNT, stack, said.append, poll_seconds=POLL)
    removal.remove(removal.inventory(), data=data, timeout=60)
    return said


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that tests may break, from which `deploy` now works."""
    for part in ("template.yaml", "dashboard.yaml"):
        shutil.copyfile(package.ROOT / part, tmp_path / part)
    for part in ("iot_rules", "cloud_functions", "fedgrass"):
        shutil.copytree(package.ROOT / part, tmp_path / part)
    monkeypatch.setattr(package, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def untouched(cloud: EmbeddedCloud) -> Iterator[None]:
    """The inventory of the account, which must be the same after a test."""
    before = inventory(cloud.client)
    yield
    assert inventory(cloud.client) == before


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--account", "123456789012"), "belong to account 000000000000 .* and --account is 123456789012"),
        (("--parameter", "FleetNam=garden"), "no parameter 'FleetNam': did you mean 'FleetName'"),
        (("--parameter", "FleetName"), "--parameter is 'FleetName'; it takes NAME=VALUE"),
        (("--parameter", "FleetName=Garden"), "FleetName.* 1 to 32 lower-case letters"),
        (("--parameter", "AlarmEmail=me"), "AlarmEmail.* an e-mail address, or nothing"),
        (("--parameter", "RoundAlarmHours=200"), "RoundAlarmHours.* 0 .no such alarm. to 168 hours"),
        (("--parameter", "KmsKeyArn=alias/mine"), "KmsKeyArn.* the ARN of a key"),
        (("--parameter", "Architecture=mips"), "Architecture"),
        (("--parameter", "DeviceRoleAlias=yes"), "AWS::IoT::RoleAlias"),
        (("--stack", "bad_name"), "--stack is 'bad_name'; it takes 1 to 128 letters"),
        (
            ("--artifact-bucket", "no-such-bucket"),
            "there is no bucket 'no-such-bucket' in account 000000000000",
        ),
    ],
)
def test_what_cannot_be_deployed_is_refused_in_a_line_and_nothing_is_made(
    cloud: EmbeddedCloud, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    code, said = fedgrass(cloud, tmp_path, "deploy", "cloud", "--stack", "refused", *words)
    assert code == 1, said
    (last,) = said.splitlines()[-1:]
    assert last.startswith("fedgrass: ")
    assert re.search(reason, last), last


@pytest.mark.usefixtures("untouched")
def test_the_outputs_are_shown_whole_and_commands_that_need_greengrass_report_it(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    parameter = "FleetName=a-fleet-whose-name-is-as-long-as"
    code, said = fedgrass(cloud, tmp_path, "deploy", "cloud", "--stack", "shown", "--parameter", parameter)
    assert code == 0, said
    assert "…" not in said
    rows = [line.split() for line in said.splitlines()]
    shown = {row[0]: row[1] for row in rows if len(row) == 2}
    found = cloud.client("cloudformation").describe_stacks(StackName="shown")["Stacks"][0]["Outputs"]
    assert len(found) > 10
    assert {output["OutputKey"]: output["OutputValue"] for output in found}.items() <= shown.items()
    code, said = fedgrass(cloud, tmp_path, "deploy", "component", "trainer", "--stack", "shown")
    assert (code, len(said.splitlines())) == (1, 1)
    assert said.startswith(f"fedgrass: the local cloud at {cloud.endpoint_url} does not support")
    for nucleus in ("lite", "classic"):
        code, said = fedgrass(
            cloud, tmp_path, "fleet", "provision", "--stack", "shown", "--nucleus", nucleus,
            "--things", "press-1", "--group", "presses", "--out", str(tmp_path / "devices"),
        )  # fmt: skip
        assert (code, len(said.splitlines())) == (1, 1)
        assert "use an AWS account, or `fedgrass demo` and `fedgrass core run`" in said
    take_down(cloud, "shown")


@pytest.mark.usefixtures("untouched")
def test_a_dry_run_shows_the_changes_and_makes_none(cloud: EmbeddedCloud, tmp_path: Path) -> None:
    code, said = fedgrass(cloud, tmp_path, "deploy", "cloud", "--stack", "dry", "--dry-run")
    assert code == 0, said
    assert "     add  Bucket (AWS::S3::Bucket)" in said.splitlines()
    assert said.splitlines()[-1] == "nothing was changed (--dry-run)"


@pytest.mark.usefixtures("untouched")
def test_a_policy_that_aws_would_not_take_is_refused_before_the_stack_is_made(
    cloud: EmbeddedCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgrass.console.deploy.deployment_checks.LARGEST_DOCUMENT", 1_700)
    options = CloudOptions(stack="long", parameters={"FleetName": "f" * 32})
    with pytest.raises(SettingsError, match=r"DevicePolicy would have .* 1,700: choose a shorter FleetName"):
        deploy_cloud(cloud.client, options, print)
    del tmp_path


@pytest.mark.usefixtures("untouched")
def test_a_resource_that_cannot_be_made_is_named_and_all_others_are_removed_again(
    cloud: EmbeddedCloud, checkout: Path
) -> None:
    rule = checkout / "iot_rules" / "hellos.yaml"
    rule.write_text(rule.read_text().replace("SELECT", "SELEC"))
    with pytest.raises(
        StackError, match=r"its resources were deleted.*HelloRule \(AWS::IoT::TopicRule\): .*SELECT"
    ):
        deploy(cloud, "broken")


@pytest.mark.usefixtures("untouched")
def test_a_change_that_fails_leaves_the_stack_as_it_was(cloud: EmbeddedCloud, checkout: Path) -> None:
    deploy(cloud, "steady", FleetName="steady")
    standing = inventory(cloud.client)
    rule = checkout / "iot_rules" / "hellos.yaml"
    whole = rule.read_text()
    rule.write_text(whole.replace("SELECT", "SELEC"))
    with pytest.raises(StackError, match=r"it was rolled back.*HelloRule"):
        deploy(cloud, "steady")
    renamed = {line.replace("CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE") for line in standing}
    assert inventory(cloud.client) == renamed
    rule.write_text(whole)
    deploy(cloud, "steady")  # it can be repeated
    take_down(cloud, "steady")


@pytest.mark.usefixtures("untouched")
def test_a_stack_is_deployed_once_changed_and_left_as_it_is_without_changes(cloud: EmbeddedCloud) -> None:
    outputs, said = deploy(cloud, "twice", FleetName="twice")
    assert outputs["Fleet"] == "twice"
    assert any("Averager (AWS::Lambda::Function)" in line for line in said), said
    outputs, said = deploy(cloud, "twice")
    assert said[-1].endswith("is unchanged")
    outputs, said = deploy(cloud, "twice", HeartbeatSeconds="30", UpdateRetentionDays="3")
    assert (outputs["Fleet"], outputs["HeartbeatSeconds"]) == ("twice", "30"), "what is not given stays"
    assert said[-1].endswith("is deployed")
    take_down(cloud, "twice")


@pytest.mark.usefixtures("untouched")
def test_every_choice_of_the_template_reaches_the_resources(cloud: EmbeddedCloud) -> None:
    key = cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
    outputs, _ = deploy(
        cloud,
        "chosen",
        FleetName="chosen",
        KmsKeyArn=key,
        AlarmEmail="me@example.com",
        RoundAlarmHours="0",
        ExpectedDevices="3",
        Architecture="arm64",
        Tracing="yes",
        LogRetentionDays="5",
    )
    averager = cloud.client("lambda").get_function(FunctionName=outputs["AveragerName"])
    assert averager["Configuration"]["Architectures"] == ["arm64"]
    assert averager["Configuration"]["TracingConfig"] == {"Mode": "Active"}
    alarms = {
        alarm["AlarmName"].split("-")[1]: alarm
        for alarm in cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    }
    assert "NoRoundClosed" not in alarms
    assert alarms["DevicesMissing"]["Threshold"] == 3
    (subscription,) = cloud.client("sns").list_subscriptions()["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "me@example.com")
    assert all(alarm["AlarmActions"] == [subscription["TopicArn"]] for alarm in alarms.values())
    logs = cloud.client("logs").describe_log_groups(logGroupNamePrefix="/fedgrass/chosen/")["logGroups"]
    assert [group["retentionInDays"] for group in logs] == [5, 5]
    # MiniStack ignores the encryption of buckets and tables (test_defects_in_template.py checks it).
    queue = cloud.client("sqs").get_queue_attributes(
        QueueUrl=outputs["RepliesQueueUrl"], AttributeNames=["KmsMasterKeyId"]
    )
    assert queue["Attributes"]["KmsMasterKeyId"] == key
    take_down(cloud, "chosen")


@pytest.mark.usefixtures("untouched")
def test_a_stack_that_is_none_of_fedgrass_is_neither_changed_nor_taken_down(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    cloudformation = cloud.client("cloudformation")
    cloudformation.create_stack(
        StackName="other", TemplateBody='{"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}'
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="other", WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    standing = inventory(cloud.client)
    for command in (("cloud",), ("down", "--yes", "--delete-data")):
        code, said = fedgrass(cloud, tmp_path, "deploy", *command, "--stack", "other")
        assert code == 1
        assert "the stack 'other' was not deployed by fedgrass" in said
    assert inventory(cloud.client) == standing
    cloudformation.delete_stack(StackName="other")
    cloudformation.get_waiter("stack_delete_complete").wait(
        StackName="other", WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )


@pytest.mark.usefixtures("untouched")
def test_a_stack_whose_creation_failed_is_refused_with_the_way_out_and_can_be_taken_down(
    cloud: EmbeddedCloud,
) -> None:
    cloudformation = cloud.client("cloudformation")
    rule = {"TopicRulePayload": {"Sql": "SELEC", "Actions": []}}
    broken = json.dumps({"Resources": {"A": {"Type": "AWS::IoT::TopicRule", "Properties": rule}}})
    cloudformation.create_stack(StackName="half", TemplateBody=broken)
    with pytest.raises(WaiterError):
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName="half", WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )
    with pytest.raises(StackError, match=r"is ROLLBACK_COMPLETE: .*`fedgrass deploy down --stack half`"):
        deploy(cloud, "half")
    take_down(cloud, "half")


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        ("ROLLBACK_FAILED", "fedgrass deploy down --stack fleet"),
        ("DELETE_FAILED", "fedgrass deploy down --stack fleet"),
        ("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback --stack-name fleet"),
        ("UPDATE_IN_PROGRESS", "another operation is in progress"),
        ("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", "another operation is in progress"),
    ],
)
def test_each_half_deployed_state_is_refused_with_its_way_out(status: str, way_out: str) -> None:
    client: Any = boto3.client("cloudformation", region_name="eu-west-1")
    described = {"StackName": "fleet", "StackStatus": status, "CreationTime": "2026-01-01T00:00:00Z"}
    with Stubber(client) as stubbed:
        stubbed.add_response("describe_stacks", {"Stacks": [described]}, {"StackName": "fleet"})
        with pytest.raises(StackError, match=f"is {status}: .*{way_out}"):
            Stack(client, "fleet", print).check()


def s3_client() -> Any:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    return boto3.client("s3", region_name="eu-west-1", **keys)  # type: ignore[call-overload]  # S3 alone


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("403", "does not belong to account 111122223333"),
        ("301", "is not in eu-west-1"),
    ],
)
def test_a_bucket_of_another_account_or_region_is_refused(code: str, reason: str) -> None:
    client = s3_client()
    with Stubber(client) as stubbed:
        stubbed.add_client_error("head_bucket", code, http_status_code=int(code))
        with pytest.raises(StackError, match=reason):
            Artifacts(client, "111122223333", "fleet").prepare()
        stubbed.assert_no_pending_responses()


def test_a_bucket_for_artifacts_that_cannot_be_guarded_is_not_left_behind() -> None:
    client = s3_client()
    name = "fedgrass-artifacts-111122223333-eu-west-1"
    with Stubber(client) as stubbed:
        stubbed.add_client_error("head_bucket", "404", http_status_code=404)
        place = {"LocationConstraint": "eu-west-1"}
        stubbed.add_response("create_bucket", {}, {"Bucket": name, "CreateBucketConfiguration": place})
        stubbed.add_client_error("put_public_access_block", "AccessDenied", http_status_code=403)
        stubbed.add_response("delete_bucket", {}, {"Bucket": name})
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            Artifacts(client, "111122223333", "fleet").prepare()
        stubbed.assert_no_pending_responses()


def test_a_bucket_is_emptied_of_versions_markers_and_unfinished_uploads(cloud: EmbeddedCloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="full")
    s3.put_bucket_versioning(Bucket="full", VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):
        s3.put_object(Bucket="full", Key="models/a", Body=b"%d" % number)
    s3.put_object(Bucket="full", Key="gone", Body=b"1")
    s3.delete_object(Bucket="full", Key="gone")
    s3.create_multipart_upload(Bucket="full", Key="half")
    listed = s3.list_object_versions(Bucket="full")
    assert (len(listed["Versions"]), len(listed["DeleteMarkers"])) == (4, 1)
    empty_bucket(s3, "full")
    listed = s3.list_object_versions(Bucket="full")
    assert not listed.get("Versions")
    assert not listed.get("DeleteMarkers")
    assert not s3.list_multipart_uploads(Bucket="full").get("Uploads")
    s3.delete_bucket(Bucket="full")


@pytest.mark.usefixtures("untouched")
def test_two_stacks_of_one_fleet_are_refused(
    cloud: EmbeddedCloud,
) -> None:
    deploy(cloud, "first", FleetName="greenhouse")
    standing = inventory(cloud.client)
    with pytest.raises(SettingsError, match=r"'greenhouse' belongs to the stack 'first'.*--parameter FleetN"):
        deploy(cloud, "second", FleetName="greenhouse")
    assert inventory(cloud.client) == standing
    deploy(cloud, "second", FleetName="orchard")
    with pytest.raises(SettingsError, match="'orchard' belongs to the stack 'second'"):
        deploy(cloud, "first", FleetName="orchard")
    deploy(cloud, "first", FleetName="vineyard")
    for stack in ("first", "second"):
        take_down(cloud, stack)


@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-1", "soon"])
def test_a_wait_without_an_end_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["cloud", "--timeout-minutes"], ["down", "--timeout-minutes"], ["devices", "--watch"]):
        with pytest.raises(SystemExit):
            parse(["deploy", *words, minutes])
        assert f"'{minutes}' is not a number from 0.1" in capsys.readouterr().err


def test_bad_parameters_are_the_operators_fault(cloud: EmbeddedCloud) -> None:
    with pytest.raises(SettingsError, match=r"there are: |did you mean"):
        deploy(cloud, "never", Nothing="1")


@pytest.mark.usefixtures("untouched")
def test_containers_for_server_apps_are_made_when_they_are_wanted_and_removed_with_the_stack(
    cloud: EmbeddedCloud,
) -> None:
    outputs, _ = deploy(cloud, "contained", FleetName="contained")
    assert not [name for name in outputs if name.startswith("ServerApp")]
    parameters = {"ServerAppImageTag": "1", "ServerAppSubnets": "subnet-1a2b", "ServerAppPublicIp": "yes"}
    outputs, _ = deploy(cloud, "contained", **parameters)
    assert outputs["ServerAppImage"] == f"{outputs['ServerAppRepositoryUri']}:1"
    assert outputs["ServerAppNetwork"] == "subnet-1a2b;;yes"
    ecs = cloud.client("ecs")
    described = ecs.describe_task_definition(taskDefinition=outputs["ServerAppTask"])["taskDefinition"]
    (container,) = described["containerDefinitions"]
    assert container["image"] == outputs["ServerAppImage"]
    assert container["logConfiguration"]["options"]["awslogs-group"] == outputs["ServerAppLogGroup"]
    assert ServerAppTasks(cloud.client, "contained", outputs).running("nightly") == []
    take_down(cloud, "contained")
    assert not cloud.client("ecr").describe_repositories()["repositories"]
    assert not ecs.list_clusters()["clusterArns"]
