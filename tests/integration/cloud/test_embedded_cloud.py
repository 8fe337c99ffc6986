"""The embedded cloud: what it deploys and refuses, and that it leaves nothing behind."""

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import paho.mqtt.client as mqtt
import pytest
from botocore.exceptions import ClientError
from paho.mqtt.enums import CallbackAPIVersion

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud, ThingCertificate
from fedgrass.local.local_errors import (
    CloudNotRunningError,
    CloudStartError,
    DeploymentError,
    PortUnavailableError,
    ThingCreationError,
)

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_sqs import SQSClient

Found = TypeVar("Found")

pytestmark = pytest.mark.timeout(90)

ARTIFACTS = "fedgrass-artifacts-000000000000-us-east-1"
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}'
HANDLER = """
import os, time, boto3
def forward(event, context):
    for record in event["Records"]:
        boto3.client("sqs").send_message(QueueUrl=os.environ["RESULTS"], MessageBody=record["body"])
def hang(event, context):
    time.sleep(60)
"""
RULE = """
TopicRulePayload:
  AwsIotSqlVersion: "2016-03-23"
  Sql:
    Fn::Sub: "SELECT round, topic(2) AS device, clientid() AS client FROM '${Fleet}/+/complete'"
  Actions:
    - Sqs: {QueueUrl: {Ref: Replies}, RoleArn: "arn:aws:iam::000000000000:role/rule", UseBase64: false}
"""
TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Parameters: {Fleet: {Type: String}}
Globals: {Function: {Runtime: python3.12, Timeout: 60}}
Resources:
  Replies: {Type: AWS::SQS::Queue, Properties: {VisibilityTimeout: 60}}
  Results: {Type: AWS::SQS::Queue}
  Forward:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src/
      Handler: handler.forward
      Environment: {Variables: {RESULTS: !Ref Results}}
      Events: {Replies: {Type: SQS, Properties: {Queue: !GetAtt Replies.Arn, BatchSize: 10}}}
  Hang:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: src/, Handler: handler.hang}
  Rule:
    Type: AWS::IoT::TopicRule
    Properties: {Fn::Transform: {Name: AWS::Include, Parameters: {Location: rules/complete.yaml}}}
Outputs:
  Results: {Value: !Ref Results}
  ResultsArn: {Value: !GetAtt Results.Arn}
  Hang: {Value: !Ref Hang}
"""


def wait_for(probe: Callable[[], Found], what: str, timeout: float = 20) -> Found:
    """Poll until `probe` returns something true."""
    deadline = time.monotonic() + timeout
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout:g} s"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCloud]:
    with EmbeddedCloud(tmp_path_factory.mktemp("state")) as running:
        iot: IoTClient = running.client("iot")
        iot.create_policy(policyName="everything", policyDocument=POLICY)
        yield running


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a template, its included rule, and the zip of its functions."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


def write_project(folder: Path) -> None:
    (folder / "rules").mkdir()
    (folder / "rules" / "complete.yaml").write_text(RULE)
    (folder / "template.yaml").write_text(TEMPLATE)
    with zipfile.ZipFile(folder / "code.zip", "w") as archive:
        archive.writestr("handler.py", HANDLER)


@pytest.fixture(scope="module")
def outputs(cloud: EmbeddedCloud, project: Path) -> dict[str, str]:
    return cloud.deploy("fleet", project / "template.yaml", project / "code.zip", {"Fleet": "garden"})


def processes_of(cloud: EmbeddedCloud) -> set[int]:
    """Return the processes of the embedded cloud and of its Lambda functions, found by their folder."""
    return processes_in(cloud.log.parent)


def processes_in(folder: Path) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and str(folder) in read_command(entry):
            found.add(int(entry.name))
    return found


def read_command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:  # it ended after the folder was listed
        return ""


def listening_addresses(processes: set[int]) -> list[str]:
    """Return the local address (hexadecimal, as the kernel writes it) of each listening TCP socket."""
    sockets = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                sockets.add(target.removeprefix("socket:[").removesuffix("]"))
    rows = [
        row.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for row in Path(table).read_text().splitlines()[1:]
    ]
    listening = "0A"
    return [row[1].split(":")[0] for row in rows if row[3] == listening and row[9] in sockets]


def connect(cloud: EmbeddedCloud, thing: ThingCertificate) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=thing.thing_name)
    client.tls_set(str(cloud.root_ca), str(thing.certificate), str(thing.private_key))
    client.connect(cloud.iot_endpoint, cloud.mqtt_port)
    client.loop_start()
    wait_for(client.is_connected, "the MQTT connection")
    return client


def receive(cloud: EmbeddedCloud, queue: str) -> str:
    sqs: SQSClient = cloud.client("sqs")

    def bodies() -> list[str]:
        answer = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1)
        return [message["Body"] for message in answer.get("Messages", [])]

    return wait_for(bodies, f"a message in {queue}")[0]


needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's /proc")


@needs_proc
def test_every_listening_socket_is_on_loopback(cloud: EmbeddedCloud) -> None:
    addresses = listening_addresses(processes_of(cloud))
    loopback = socket.inet_aton("127.0.0.1")[::-1].hex().upper()
    assert addresses == [loopback, loopback]


def test_a_device_message_passes_rule_queue_and_function_of_a_deployed_template(
    cloud: EmbeddedCloud, outputs: dict[str, str], tmp_path: Path
) -> None:
    thing = cloud.create_thing("rose", tmp_path, "everything")
    device = connect(cloud, thing)
    try:
        device.publish("garden/rose/complete", '{"round": 3}', qos=1).wait_for_publish(10)
        assert receive(cloud, outputs["Results"]) == '{"round": 3, "device": "rose", "client": "rose"}'
    finally:
        device.disconnect()
        device.loop_stop()


def test_a_schedule_fires_within_seconds_of_its_time(cloud: EmbeddedCloud, outputs: dict[str, str]) -> None:
    scheduler: EventBridgeSchedulerClient = cloud.client("scheduler")
    scheduler.create_schedule(
        Name="deadline",
        ScheduleExpression=time.strftime("at(%Y-%m-%dT%H:%M:%S)", time.gmtime()),
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": outputs["ResultsArn"], "RoleArn": "arn:aws:iam::000000000000:role/r", "Input": "due"},
    )
    began = time.monotonic()
    assert receive(cloud, outputs["Results"]) == "due"
    assert time.monotonic() - began < 9  # MiniStack's default tick would take up to 10 s


def test_a_transaction_that_comes_again_is_not_made_again_and_no_other_has_its_token(
    cloud: EmbeddedCloud,
) -> None:
    table = cloud.client("dynamodb")
    table.create_table(
        TableName="transactions",
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    def write(number: str) -> None:
        put = {"Put": {"TableName": "transactions", "Item": {"key": {"S": "a"}, "seconds": {"N": number}}}}
        table.transact_write_items(TransactItems=[put], ClientRequestToken="the-same")

    write("0.0")
    table.delete_item(TableName="transactions", Key={"key": {"S": "a"}})
    for _ in range(2):
        write("0.0")
        with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
            write("1.0")
    assert "Item" not in table.get_item(TableName="transactions", Key={"key": {"S": "a"}})


def test_the_private_key_of_a_thing_is_readable_by_its_owner_alone(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    thing = cloud.create_thing("lily", tmp_path / "lily", "everything")
    assert stat.S_IMODE(thing.private_key.stat().st_mode) == stat.S_IRUSR | stat.S_IWUSR


def test_a_thing_with_an_unknown_policy_is_refused_by_name(cloud: EmbeddedCloud, tmp_path: Path) -> None:
    with pytest.raises(ThingCreationError, match=r"'weed'.*'nonesuch'"):
        cloud.create_thing("weed", tmp_path / "weed", "nonesuch")
    assert not (tmp_path / "weed").exists()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("{Type: AWS::IoT::TopicRule, Properties: {TopicRulePayload: {Sql: SELEC, Actions: []}}}", "SELECT"),
        (f"{{Type: AWS::S3::Bucket, Properties: {{BucketName: {ARTIFACTS}}}}}", "already exists"),
    ],
    ids=["while it is created", "before anything is created"],
)
def test_a_failing_resource_is_named_with_its_reason(
    cloud: EmbeddedCloud, project: Path, tmp_path: Path, broken: str, reason: str
) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(f"Resources: {{Broken: {broken}}}")
    stack = f"broken-{reason.partition(' ')[0]}"
    with pytest.raises(DeploymentError, match=rf"'{stack}'.*Broken \(AWS::.+\): .*{reason}"):
        cloud.deploy(stack, template, project / "code.zip", {})


def test_a_stack_that_exists_is_refused_by_name(
    cloud: EmbeddedCloud, project: Path, outputs: dict[str, str]
) -> None:
    assert outputs
    with pytest.raises(DeploymentError, match=r"'fleet'.*exists"):
        cloud.deploy("fleet", project / "template.yaml", project / "code.zip", {"Fleet": "garden"})


@pytest.mark.parametrize(
    ("missing", "said"),
    [("template.yaml", "template"), ("code.zip", "Lambda zip"), ("rules/complete.yaml", "included by")],
)
def test_a_missing_file_is_named_before_anything_is_created(
    cloud: EmbeddedCloud, tmp_path: Path, missing: str, said: str
) -> None:
    write_project(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DeploymentError, match=f"{missing}.*{said}"):
        cloud.deploy("never", tmp_path / "template.yaml", tmp_path / "code.zip", {"Fleet": "garden"})


def test_a_template_that_is_no_yaml_is_refused(cloud: EmbeddedCloud, tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text("Resources: [")
    with pytest.raises(DeploymentError, match="not valid YAML"):
        cloud.deploy("never", template, tmp_path / "code.zip", {})


def test_a_busy_port_is_refused_by_option_and_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailableError, match=f"mqtt_port {port} .* Choose another"):
            EmbeddedCloud(tmp_path, mqtt_port=port).start()
    assert list(tmp_path.iterdir()) == []


def test_a_port_beyond_the_last_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PortUnavailableError, match="gateway_port is 65536"):
        EmbeddedCloud(tmp_path, gateway_port=65536).start()


def test_fixed_ports_are_used_and_free_again_after_stop(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        gateway, broker = one.getsockname()[1], two.getsockname()[1]
    for _ in range(2):
        with EmbeddedCloud(tmp_path, gateway_port=gateway, mqtt_port=broker) as cloud:
            assert cloud.endpoint_url.endswith(f":{gateway}")
            assert cloud.mqtt_port == broker


def test_a_cloud_that_is_not_ready_in_time_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CloudStartError, match="not ready after 0 s"):
        EmbeddedCloud(tmp_path).start(timeout=0)
    assert list(tmp_path.iterdir()) == []


def test_two_clouds_do_not_see_each_other(cloud: EmbeddedCloud, tmp_path: Path) -> None:
    with EmbeddedCloud(tmp_path) as other:
        first: S3Client = cloud.client("s3")
        second: S3Client = other.client("s3")
        first.create_bucket(Bucket="mine")
        assert "mine" not in [bucket["Name"] for bucket in second.list_buckets()["Buckets"]]


def test_the_aws_settings_of_the_shell_are_ignored(
    cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "a-profile-that-does-not-exist")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    script = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    child = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **cloud.environment()},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert child.stdout == "000000000000\n", child.stderr
    assert cloud.client("ssm").meta.region_name == "us-east-1"


@needs_proc
def test_stop_ends_running_functions_and_removes_the_state(project: Path, tmp_path: Path) -> None:
    cloud = EmbeddedCloud(tmp_path)
    cloud.start()
    hang_a_function(cloud, project)
    folder = cloud.log.parent
    wait_for(lambda: len(processes_in(folder)) > 1, "a Lambda process")
    cloud.stop()
    cloud.stop()
    assert processes_in(folder) == set()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CloudNotRunningError):
        cloud.client("s3")


@needs_proc
def test_a_killed_parent_leaves_no_process_and_no_state(project: Path, tmp_path: Path) -> None:
    script = f"""
        import sys
        from pathlib import Path
        from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
        from tests.integration.cloud.test_embedded_cloud import hang_a_function
        cloud = EmbeddedCloud(Path({str(tmp_path)!r}))
        cloud.start()
        hang_a_function(cloud, Path({str(project)!r}))
        print("hanging", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "hanging\n"
            (folder,) = tmp_path.iterdir()
            wait_for(lambda: len(processes_in(folder) - {parent.pid}) > 1, "a Lambda process")
        finally:
            parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_in(folder), "the end of all processes")
    wait_for(lambda: not folder.exists(), "the removal of the state")


def hang_a_function(cloud: EmbeddedCloud, project: Path) -> None:
    deployed = cloud.deploy("fleet", project / "template.yaml", project / "code.zip", {"Fleet": "garden"})
    functions: LambdaClient = cloud.client("lambda")
    functions.invoke(FunctionName=deployed["Hang"], InvocationType="Event", Payload=b"{}")
