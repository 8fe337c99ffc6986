"""Least privilege in both directions: the AWS calls of the code against the permissions in template.yaml.

A testbed runs with ``AUTH=true``: each function has its role, each device its certificate and its restriction
of the device role, and everything else is refused. All calls are recorded and compared with the deployed
policies: no permission is missing, and none is unused, except those that AWS services use for fedgrass
(``BY_SERVICES``).
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloud_functions.monitoring import Metric
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.e2e.conftest import FLEET, Watched
from tests.permissions import scenario
from tests.permissions.grants import Grant, Statement, grants, missing, statements_of_role, unused
from tests.permissions.intruder import credentials_of_role, credentials_of_thing, try_topics
from tests.permissions.needs import Call, Need, needs_of, needs_of_rules, read_calls
from tests.permissions.recorder import sitecustomize as recorder

pytestmark = pytest.mark.timeout(600)

FUNCTIONS = ("Initiator", "Averager")
# Permissions that AWS services use with these roles and this certificate, and fedgrass itself does not.
BY_SERVICES: Mapping[str, str] = {
    "sqs:ReceiveMessage": "Lambda reads the function's queue under the function's role",
    "sqs:DeleteMessage": "Lambda removes what the function has dealt with",
    "sqs:GetQueueAttributes": "Lambda looks how long the queue is",
    "logs:CreateLogGroup": "Lambda keeps what the function prints",
    "logs:CreateLogStream": "Lambda keeps what the function prints",
    "logs:PutLogEvents": "Lambda keeps what the function prints",
    "iot:AssumeRoleWithCertificate": "the credentials provider asks it, of which the laptop has a stand-in",
}
# Granted for services that the laptop does not emulate.
BY_OTHERS: Mapping[str, str] = {
    "iot:Connect client/*#*": "the classic nucleus opens more connections as it needs them: thing#2, ...",
    "s3:GetObject components/": "the nucleus fetches the components that it deploys",
    "s3:GetBucketLocation fedgrass": "the nucleus asks for the bucket's region before it fetches a component",
    "s3:AbortMultipartUpload updates/": "whoever uploads gives it up when it failed for good",
}


@dataclass
class Exercised:
    """A testbed on which every feature was used, with the recorded calls."""

    watched: Watched
    calls: list[Call]
    parts: dict[str, str] = field(default_factory=dict)  # logical id -> name of a function, role or policy

    @property
    def cloud(self) -> EmbeddedCloud:
        return self.watched.testbed.cloud

    def of_function(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.who == f"function:{self.parts[name]}"]

    def of_things(self) -> Mapping[str, list[Call]]:
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            if call.who.startswith("thing:"):
                found.setdefault(call.who.removeprefix("thing:").split("#")[0], []).append(call)
        return {thing: calls for thing, calls in found.items() if thing in scenario.THINGS}

    def role_of(self, function: str) -> str:
        described = self.cloud.client("lambda").get_function_configuration(FunctionName=self.parts[function])
        return str(described["Role"]).rsplit("/", 1)[-1]

    def statements(self, role: str) -> list[Statement]:
        return statements_of_role(self.cloud.client("iam"), role)


def needed(calls: list[Call]) -> set[Need]:
    """Return the permissions that calls need; a refused call counts as a missing one."""
    return set().union(*(needs_of(call) for call in calls))


def by_others(grant: Grant) -> str:
    """Return why an unused grant is accepted; empty if it is not."""
    if grant.action in BY_SERVICES:
        return BY_SERVICES[grant.action]
    for words, reason in BY_OTHERS.items():
        action, part = words.split(" ")
        if grant.action == action and all(word in grant.resource for word in part.split("*")):
            return reason
    return ""


def compared(title: str, statements: list[Statement], needs: set[Need]) -> tuple[list[Need], list[Grant]]:
    """Print granted and used permissions; return the missing and the unused ones."""
    allowed = grants(statements)
    idle = unused(allowed, needs)
    may = [
        f"  {grant}   [{by_others(grant) or 'NOT USED' if grant in idle else 'used'}]" for grant in allowed
    ]
    did = [f"  {need.action:32} {need.resource}" for need in _some(needs)]
    lines = [f"\n{title} may:", *may, f"{title} asked for:", *did]
    print("\n".join(lines))  # noqa: T201 - for reviewers (pytest -s)
    return missing(statements, needs), [grant for grant in idle if not by_others(grant)]


def _some(needs: set[Need]) -> Iterator[Need]:
    """Return a few needs of each action; the others differ only in run or round."""
    for action in sorted({need.action for need in needs}):
        yield from sorted(need for need in needs if need.action == action)[:3]


@pytest.fixture(scope="module")
def exercised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exercised]:
    folder = tmp_path_factory.mktemp("calls")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(recorder.__file__).parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv(recorder.FOLDER, str(folder))
        _record_cores(patch)
        watched = stack.enter_context(scenario.opened_testbed(tmp_path_factory.mktemp("testbed")))
        resources = watched.testbed.cloud.client("cloudformation").list_stack_resources(StackName="fedgrass")
        parts = {
            one["LogicalResourceId"]: one["PhysicalResourceId"] for one in resources["StackResourceSummaries"]
        }
        scenario.do_everything(watched, tmp_path_factory.mktemp("scenario"))
        yield Exercised(watched, read_calls(folder), parts)


def _record_cores(patch: pytest.MonkeyPatch) -> None:
    """Record the calls of cores: of their Stream Managers to S3, and of the cores to the broker.

    They run in this process, which also has the clients of the operator.
    """
    as_it_is = EmbeddedCloud.client_with

    def client_with(self: EmbeddedCloud, service: str, credentials: Mapping[str, str], *rest: str) -> Any:
        client = as_it_is(self, service, credentials, *rest)
        arn = as_it_is(self, "sts", credentials).get_caller_identity()["Arn"]
        for event, handler in recorder.handlers(f"thing:{arn.rsplit('/', 1)[-1]}"):
            client.meta.events.register(event, handler)
        return client

    patch.setattr(EmbeddedCloud, "client_with", client_with)
    recorder.record_broker(patch.setattr)


def test_every_line_of_the_functions_names_run_round_and_device_and_every_metric_was_measured(
    exercised: Exercised,
) -> None:
    log = exercised.cloud.log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert all({"run", "round", "device"} <= line.keys() for line in lines)
    # All actions of devices and functions in a round are found by its name.
    of_first = {line["device"] for line in lines if (line["run"], line["round"]) == ("first", 1)}
    assert of_first == {"", "device-1", "plain-1"}  # device-2 is held out
    measured = {
        metric["Name"]
        for line in lines
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", [])
        for metric in directive["Metrics"]
    }
    # The task of this testbed reports no accuracy, and its runs are neither buffered nor collapse.
    unmeasured = {Metric.ACCURACY, Metric.MODELS_COLLAPSED, Metric.UPDATES_STALE, Metric.STALENESS}
    assert measured == set(Metric) - unmeasured
    assert {line["Fleet"] for line in lines if "_aws" in line} == {FLEET}


def test_the_census_counts_every_device_whose_heartbeat_came(exercised: Exercised) -> None:
    assert scenario.censuses(exercised.cloud.log) == [[len(scenario.THINGS)]]


def test_nothing_that_was_asked_was_refused(exercised: Exercised) -> None:
    refused = [
        (call.who, call.name, call.parameters) for call in exercised.calls if call.status in {401, 403}
    ]
    assert refused == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_may_do_what_it_does_and_nothing_else(exercised: Exercised, function: str) -> None:
    calls = exercised.of_function(function)
    assert calls
    statements = exercised.statements(exercised.role_of(function))
    assert compared(function, statements, needed(calls)) == ([], [])


def test_a_device_may_do_what_it_does_and_nothing_else(exercised: Exercised) -> None:
    statements = exercised.statements(exercised.parts["DeviceRole"])
    policy = exercised.cloud.client("iot").get_policy(policyName=exercised.parts["DevicePolicy"])
    statements += scenario.statements_of(policy["policyDocument"])
    assert exercised.of_things().keys() == set(scenario.THINGS)
    # Not every device uses every permission: their needs are combined under one name.
    needs = {
        need._replace(resource=need.resource.replace(thing, "THING"))
        for thing, calls in exercised.of_things().items()
        for need in needed(calls)
        # Devices may not list the bucket, so S3 responds with "forbidden" for a missing model, which the
        # predictor handles.
        if need.action != "s3:ListBucket"
    }
    assert compared("a device", scenario.with_name(statements, "THING"), needs) == ([], [])


def test_the_rules_may_do_what_they_do_and_nothing_else(exercised: Exercised) -> None:
    role = exercised.parts["RulesRole"]
    needs = needs_of_rules(exercised.cloud.client("iot"), role)
    assert compared("the rules", exercised.statements(role), needs) == ([], [])


def test_the_scheduler_may_ring_and_nothing_else(exercised: Exercised) -> None:
    role = exercised.parts["DeadlineRole"]
    targets = [call.parameters["Target"] for call in exercised.calls if call.operation == "CreateSchedule"]
    scheduler = exercised.cloud.client("scheduler")
    for found in scheduler.list_schedules()["Schedules"]:  # those of the template, and pending ones
        schedule = scheduler.get_schedule(Name=found["Name"], GroupName=found["GroupName"])
        targets.append(schedule["Target"])
    needs = {Need("sqs:SendMessage", target["Arn"]) for target in targets if target["RoleArn"].endswith(role)}
    assert compared("the scheduler", exercised.statements(role), needs) == ([], [])


def test_nothing_is_granted_by_a_wildcard_action(exercised: Exercised) -> None:
    roles = [exercised.role_of(function) for function in FUNCTIONS]
    roles += [exercised.parts[name] for name in ("DeviceRole", "RulesRole", "DeadlineRole")]
    for role in roles:
        assert not [grant for grant in grants(exercised.statements(role)) if "*" in grant.action]


def refusal(call: Callable[[], object]) -> str:
    """Return the error code of a call that AWS must refuse."""
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def _client_of(exercised: Exercised, service: str, thing: str) -> Any:
    testbed = exercised.watched.testbed
    return testbed.cloud.client_with(service, credentials_of_thing(testbed, thing))


def test_a_device_that_tries_another_s_keys_is_refused(exercised: Exercised) -> None:
    s3 = _client_of(exercised, "s3", "device-1")
    bucket = exercised.watched.testbed.stack["BucketName"]
    own, others = "updates/device-1/mine/1-1.safetensors", "updates/device-2/mine/1-1.safetensors"
    s3.put_object(Bucket=bucket, Key=own, Body=b"mine")
    s3.get_object(Bucket=bucket, Key="models/first/0.safetensors")["Body"].read()
    content = "models/app/content/" + "0" * 64 + ".safetensors"
    attempts: dict[str, Callable[[], object]] = {
        "writes another's update": lambda: s3.put_object(Bucket=bucket, Key=others, Body=b"forged"),
        "writes by a prefix": lambda: s3.put_object(Bucket=bucket, Key="updates/device-12/x", Body=b"forged"),
        "writes another's log lines": lambda: s3.put_object(
            Bucket=bucket, Key=f"logs/device-2/{'0' * 32}.txt", Body=b"forged"
        ),
        "writes log lines by a prefix": lambda: s3.put_object(
            Bucket=bucket, Key=f"logs/device-12/{'0' * 32}.txt", Body=b"forged"
        ),
        "reads another's log lines": lambda: s3.get_object(
            Bucket=bucket, Key=f"logs/device-2/{'0' * 32}.txt"
        ),
        "begins another's upload": lambda: s3.create_multipart_upload(Bucket=bucket, Key=others),
        "writes a model": lambda: s3.put_object(
            Bucket=bucket, Key="models/first/1.safetensors", Body=b"forged"
        ),
        "writes the content of a message": lambda: s3.put_object(Bucket=bucket, Key=content, Body=b"forged"),
        "reads who else gets messages": lambda: s3.get_object(
            Bucket=bucket, Key="rounds/app/1.messages.json"
        ),
        "writes a list of messages": lambda: s3.put_object(
            Bucket=bucket, Key="rounds/app/4.messages.json", Body=b"forged"
        ),
        "writes a manifest": lambda: s3.put_object(
            Bucket=bucket, Key="rounds/first/run.json", Body=b"forged"
        ),
        "reads an update": lambda: s3.get_object(Bucket=bucket, Key=others),
        "reads its own update": lambda: s3.get_object(Bucket=bucket, Key=own),
        "reads who else is asked": lambda: s3.get_object(Bucket=bucket, Key="rounds/first/1-1.json"),
        "lists the bucket": lambda: s3.list_objects_v2(Bucket=bucket),
        "deletes a model": lambda: s3.delete_object(Bucket=bucket, Key="models/first/0.safetensors"),
    }
    found = {name: refusal(call) for name, call in attempts.items()}
    assert found == dict.fromkeys(attempts, "AccessDenied")


def test_a_device_reaches_no_other_service(exercised: Exercised) -> None:
    testbed = exercised.watched.testbed
    credentials = credentials_of_thing(testbed, "device-1")
    tables = [testbed.stack[f"{name}TableName"] for name in ("Devices", "Rounds", "Turnarounds")]
    dynamodb = testbed.cloud.client_with("dynamodb", credentials)
    for table in tables:
        assert refusal(partial(dynamodb.scan, TableName=table)) == "AccessDeniedException"
    queue = testbed.stack["RepliesQueueUrl"]
    sqs = testbed.cloud.client_with("sqs", credentials)
    assert "AccessDenied" in refusal(lambda: sqs.send_message(QueueUrl=queue, MessageBody="{}"))
    invoked = testbed.stack["InitiatorName"]
    functions = testbed.cloud.client_with("lambda", credentials)
    assert refusal(lambda: functions.invoke(FunctionName=invoked)) == "AccessDeniedException"


def test_a_device_that_tries_another_s_topics_is_refused(exercised: Exercised, tmp_path: Path) -> None:
    tried = try_topics(exercised.watched.testbed, tmp_path, FLEET)
    assert tried.allowed == {"publish complete", "publish status", "publish hello", "subscribe announce"}
    assert tried.refused == {
        "publish another's complete", "publish another's heartbeat", "publish own announce",
        "publish another's announce", "publish rounds", "publish models", "publish another fleet's",
        "subscribe another's announce", "subscribe everything", "subscribe all announcements",
        "connect as another",
    }  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_that_tries_another_s_things_is_refused(exercised: Exercised, function: str) -> None:
    testbed = exercised.watched.testbed
    credentials = credentials_of_role(exercised.cloud, exercised.role_of(function))
    dynamodb = testbed.cloud.client_with("dynamodb", credentials)
    s3 = testbed.cloud.client_with("s3", credentials)
    devices, rounds, bucket = (
        testbed.stack[n] for n in ("DevicesTableName", "RoundsTableName", "BucketName")
    )
    row = {"device": {"S": "forged"}}
    run = {"run": {"S": "first"}, "item": {"S": "run"}}
    assert dynamodb.get_item(TableName=rounds, Key=run)["ResponseMetadata"]["HTTPStatusCode"] == 200
    attempts: dict[str, Callable[[], object]] = {
        "writes the devices": lambda: dynamodb.put_item(TableName=devices, Item=row),
        "reads the turnarounds": lambda: dynamodb.scan(TableName=testbed.stack["TurnaroundsTableName"]),
        "reads all rounds": lambda: dynamodb.scan(TableName=rounds),
        "deletes a table": lambda: dynamodb.delete_table(TableName=rounds),
    }
    assert {refusal(call) for call in attempts.values()} == {"AccessDeniedException"}
    key = "updates/device-1/first/1-1.safetensors"
    assert refusal(lambda: s3.put_object(Bucket=bucket, Key=key, Body=b"forged")) == "AccessDenied"
    assert refusal(lambda: s3.delete_object(Bucket=bucket, Key=key)) == "AccessDenied"
    if function == "Averager":
        forget = partial(dynamodb.delete_item, TableName=devices, Key=row)
        assert refusal(forget) == "AccessDeniedException"
    if function == "Initiator":
        assert refusal(lambda: s3.get_object(Bucket=bucket, Key=key)) == "AccessDenied"
