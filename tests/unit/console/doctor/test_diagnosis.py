"""``fedgrass doctor``: each fault is a finding with what to do, and no error of AWS ends the other checks."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

import package
from fedgrass import __version__
from fedgrass.console.deploy.deploy_package import read_template
from fedgrass.console.doctor import device_checks, diagnosis
from fedgrass.console.doctor.diagnosis import CHECKS, diagnose, examine
from fedgrass.console.doctor.health_report import Finding, HealthReport
from fedgrass.console.results import show_result
from fedgrass.console.stack import StackError
from fedgrass.federation.selection import Candidate
from tests.documents.golden_files import golden_text

NOW = 1_700_000_000_000
DAY = 86_400_000
TEMPLATE = read_template(package.ROOT / "template.yaml")


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Describe")


def device(number: int, *, seen: int = NOW, version: str = __version__, **columns: str) -> Candidate:
    attributes = {"version": version, **columns}
    return Candidate(f"press-{number}", seen, frozenset({"digits"}), 10, attributes)


class Account:
    """A healthy fleet in an account, which a test spoils."""

    def __init__(self) -> None:
        self.clock_of_aws = NOW
        self.status = "UPDATE_COMPLETE"
        self.outputs = {name: f"the-{name}" for name in TEMPLATE["Outputs"]}
        self.outputs |= {"Fleet": "plant", "HeartbeatSeconds": "60"}
        self.resources = {name: (one["Type"], f"real-{name}") for name, one in TEMPLATE["Resources"].items()}
        self.disabled: set[str] = set()
        self.gone: set[str] = set()
        self.role = "the-DeviceRoleArn"
        self.function_state = {"State": "Active", "LastUpdateStatus": "Successful", "MemorySize": 1769}
        self.concurrent = 1000
        self.versioning = "Enabled"
        self.blocks = {"BlockPublicAcls": True, "RestrictPublicBuckets": True}
        self.prefixes = ["updates/", "logs/", "drafts/"]
        self.dead = 0
        self.raised: set[str] = set()
        self.devices = [device(1), device(2)]
        self.certificates: dict[str, list[tuple[str, int]]] = {}
        self.errors: dict[str, Exception] = {}  # by service: what every request raises

    def __call__(self, service: str) -> Any:
        if error := self.errors.get(service):
            raise error
        client: Any = getattr(self, f"_{service.replace('-', '_')}")()
        client.meta = SimpleNamespace(
            region_name="eu-central-1", endpoint_url=f"https://{service}.amazonaws.com"
        )
        return client

    def _sts(self) -> Any:
        date = format_datetime(datetime.fromtimestamp(self.clock_of_aws / 1000, tz=UTC), usegmt=True)
        answer = {
            "Account": "123456789012",
            "Arn": "arn:aws:iam::123456789012:user/me",
            "ResponseMetadata": {"HTTPHeaders": {"date": date}},
        }
        return SimpleNamespace(get_caller_identity=lambda: answer)

    def _cloudformation(self) -> Any:
        outputs = [{"OutputKey": name, "OutputValue": value} for name, value in self.outputs.items()]
        stack = {"StackStatus": self.status, "Outputs": outputs, "Parameters": []}
        resources = [
            {"LogicalResourceId": name, "ResourceType": kind, "PhysicalResourceId": real}
            for name, (kind, real) in self.resources.items()
        ]
        return SimpleNamespace(
            describe_stacks=lambda StackName: {"Stacks": [stack]},  # noqa: N803, ARG005 - AWS's name
            get_paginator=_pages({"StackResourceSummaries": resources}),
        )

    def _lambda(self) -> Any:
        return SimpleNamespace(
            get_function_configuration=lambda **_: self.function_state,
            get_account_settings=lambda: {"AccountLimit": {"ConcurrentExecutions": self.concurrent}},
        )

    def _iot(self) -> Any:
        rules = [
            {
                "ruleName": real,
                "ruleDisabled": name in self.disabled,
                "topicPattern": "fedgrass/plant/clients/+/hello",
            }
            for name, (kind, real) in self.resources.items()
            if kind == "AWS::IoT::TopicRule" and name not in self.gone
        ]

        def paginator(operation: str) -> Any:
            if operation == "list_topic_rules":
                return _pages({"rules": rules})(operation)
            return SimpleNamespace(paginate=self._principals)

        def certificate(certificateId: str) -> Any:  # noqa: N803 - AWS's name
            thing, _, number = certificateId.rpartition(".")
            status, ends = self._certificates_of(thing)[int(number)]
            ending = datetime.fromtimestamp(ends / 1000, tz=UTC)
            return {"certificateDescription": {"status": status, "validity": {"notAfter": ending}}}

        return SimpleNamespace(
            get_paginator=paginator,
            describe_certificate=certificate,
            describe_role_alias=lambda **_: {"roleAliasDescription": {"roleArn": self.role}},
        )

    def _certificates_of(self, thing: str) -> list[tuple[str, int]]:
        return self.certificates.get(thing, [("ACTIVE", NOW + 400 * DAY)])

    def _principals(self, thingName: str) -> list[Any]:  # noqa: N803 - AWS's name
        if thingName in self.gone:
            error = refused("ResourceNotFoundException")
            raise error
        found = range(len(self._certificates_of(thingName)))
        return [{"principals": [f"arn:aws:iot:x:1:cert/{thingName}.{number}" for number in found]}]

    def _s3(self) -> Any:
        rules = [
            {"Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": 7}}
            for prefix in self.prefixes
        ]

        def lifecycle(**_: str) -> Any:
            if not rules:
                error = refused("NoSuchLifecycleConfiguration")
                raise error
            return {"Rules": rules}

        return SimpleNamespace(
            get_bucket_versioning=lambda **_: {"Status": self.versioning},
            get_public_access_block=lambda **_: {"PublicAccessBlockConfiguration": self.blocks},
            get_bucket_lifecycle_configuration=lifecycle,
        )

    def _cloudwatch(self) -> Any:
        def describe(AlarmNames: list[str]) -> Any:  # noqa: N803 - AWS's name
            alarms = [
                {
                    "AlarmName": real,
                    "StateValue": "ALARM" if name in self.raised else "OK",
                    "AlarmDescription": f"what {name} is about",
                }
                for name, (kind, real) in self.resources.items()
                if kind == "AWS::CloudWatch::Alarm" and name not in self.gone and real in AlarmNames
            ]
            return {"MetricAlarms": alarms}

        return SimpleNamespace(describe_alarms=describe)

    def _sqs(self) -> Any:
        answer = {"Attributes": {"ApproximateNumberOfMessages": str(self.dead)}}
        return SimpleNamespace(get_queue_attributes=lambda **_: answer)


def _pages(page: Any) -> Callable[[str], Any]:
    return lambda _operation: SimpleNamespace(paginate=lambda **_: [page])


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    made = Account()
    found = SimpleNamespace(devices=lambda: made.devices)
    monkeypatch.setattr(device_checks, "Operator", lambda *_: found)
    return made


def examined(account: Account, certificates: int = 100) -> HealthReport:
    return examine(account, "plant", certificates, lambda: NOW)


def bad(account: Account) -> list[Finding]:
    return [one for one in examined(account).findings if one.state != "ok"]


def test_a_healthy_fleet_has_no_problems_and_every_check_was_made(account: Account) -> None:
    report = examined(account)
    assert [one.text for one in report.findings if one.state != "ok"] == []
    assert report.problems == 0
    checks = {one.check for one in report.findings}
    assert checks == {*CHECKS, "credentials", "clock", "component versions", "certificates"}


FAULTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"clock_of_aws": NOW - 600_000}, "problem", "differs from that of AWS by 600 s", "NTP"),
    ({"clock_of_aws": NOW + 100_000}, "note", "by 100 s", "NTP"),
    ({"status": "UPDATE_ROLLBACK_COMPLETE"}, "problem", "is UPDATE_ROLLBACK_COMPLETE", "deploy cloud"),
    ({"status": "UPDATE_IN_PROGRESS"}, "note", "is UPDATE_IN_PROGRESS", "wait"),
    (
        {"function_state": {"State": "Failed", "StateReason": "its key is disabled"}},
        "problem",
        "is Failed, its last update Successful: its key is disabled",
        "deploy cloud",
    ),
    ({"concurrent": 10}, "note", "allows 10 concurrent functions", "larger quota"),
    ({"disabled": {"HeartbeatRule"}}, "problem", "the rule HeartbeatRule is disabled", "enable-topic-rule"),
    ({"gone": {"ReplyRule"}}, "problem", "the rule ReplyRule (real-ReplyRule) is gone", "deploy cloud"),
    ({"role": "arn:other"}, "problem", "leads to arn:other, not to the-DeviceRoleArn", "deploy cloud"),
    ({"versioning": ""}, "problem", "keeps no versions", "deploy cloud"),
    ({"blocks": {"BlockPublicAcls": False}}, "problem", "does not block public access", "deploy cloud"),
    (
        {"prefixes": ["updates/", "drafts/"]},
        "problem",
        "no rule that deletes old objects below logs/",
        "deploy",
    ),
    ({"prefixes": []}, "problem", "below updates/", "deploy cloud"),
    ({"dead": 3}, "problem", "3 messages could not be processed", "fedgrass queue show"),
    ({"devices": []}, "note", "none has sent a heartbeat", "docs/devices.md"),
    (
        {"devices": [device(1, seen=NOW - DAY)]},
        "problem",
        "none of 1 has sent a heartbeat within 300 s",
        "rule",
    ),
    (
        {"devices": [device(1), device(2, seen=NOW - DAY)]},
        "note",
        "1 of 2 sent no heartbeat within 300 s: press-2",
        "devices list --missing",
    ),
    ({"devices": [device(1), device(2, version="0.1.0")]}, "note", "1 with 0.1.0", "fedgrass deploy devices"),
    (
        {"devices": [device(1, work_error="no credentials")]},
        "problem",
        "work waits: press-1 (no credentials)",
        "devices logs",
    ),
    (
        {"certificates": {"press-2": [("ACTIVE", NOW + 10 * DAY)]}},
        "problem",
        "the certificate of press-2 expires on 2023-11-24",
        "new one",
    ),
    (
        {"certificates": {"press-2": [("ACTIVE", NOW - DAY)]}},
        "problem",
        "the certificate of press-2 expired on 2023-11-13",
        "new one",
    ),
    (
        {"certificates": {"press-2": [("INACTIVE", NOW + 400 * DAY)]}},
        "problem",
        "press-2 has no active certificate",
        "activate",
    ),
    ({"gone": {"press-1"}}, "problem", "press-1 is no thing of AWS IoT any more", "devices forget press-1"),
]


@pytest.mark.parametrize(
    ("spoilt", "state", "text", "remedy"), FAULTS, ids=[fault[2][:30] for fault in FAULTS]
)
def test_a_fault_is_found_with_what_to_do(
    account: Account, spoilt: dict[str, Any], state: str, text: str, remedy: str
) -> None:
    for name, value in spoilt.items():
        setattr(account, name, value)
    found = [one for one in bad(account) if text in one.text]
    assert found, bad(account)
    assert {one.state for one in found} == {state}
    assert remedy in found[0].remedy


def test_a_name_in_a_command_to_paste_is_quoted(account: Account) -> None:
    name = "x; touch pwned"
    account.gone, account.devices = {name}, [Candidate(name, NOW, frozenset({"digits"}), 10, {})]
    (found,) = (one for one in bad(account) if one.check == "certificates")
    assert "`fedgrass devices forget 'x; touch pwned'`" in found.remedy


def test_a_stack_of_another_version_is_found_by_what_it_lacks(account: Account) -> None:
    del account.outputs["TurnaroundsTableName"], account.resources["HelloRule"]
    (found,) = (one for one in bad(account) if one.check == "stack")
    assert "it has no TurnaroundsTableName, HelloRule" in found.text


def test_a_check_of_an_output_that_is_missing_does_not_end_the_others(account: Account) -> None:
    del account.outputs["DeadLettersQueueUrl"]
    (found,) = (one for one in examined(account).findings if one.check == "dead letters")
    assert found.state == "unknown"
    assert "the stack has no output DeadLettersQueueUrl" in found.text
    assert any(one.check == "devices" for one in examined(account).findings)


def test_a_new_certificate_next_to_an_old_one_is_enough(account: Account) -> None:
    account.certificates["press-1"] = [("ACTIVE", NOW - DAY), ("ACTIVE", NOW + 400 * DAY)]
    assert bad(account) == []


def test_no_more_certificates_are_read_than_asked_for(account: Account) -> None:
    account.devices = [device(number) for number in range(500)]
    (found,) = (one for one in examined(account, 7).findings if one.check == "certificates")
    assert "those of 7 of 500 devices" in found.text
    assert not [one for one in examined(account, 0).findings if one.check == "certificates"]


@pytest.mark.parametrize("service", ["lambda", "iot", "s3", "sqs"])
def test_a_service_that_refuses_leaves_the_other_checks(account: Account, service: str) -> None:
    account.errors[service] = refused("AccessDenied")
    found = bad(account)
    assert found
    assert {one.state for one in found} == {"unknown"}
    assert all("cannot be checked: An error occurred (AccessDenied)" in one.text for one in found)
    assert len(examined(account).findings) > 8


@pytest.mark.parametrize("error", [NoCredentialsError(), refused("ExpiredToken"), StackError("no region")])
def test_credentials_that_cannot_be_used_are_the_only_finding(account: Account, error: Exception) -> None:
    account.errors["sts"] = error
    (found,) = examined(account).findings
    assert (found.check, found.state) == ("credentials", "problem")
    assert "AWS_PROFILE" in found.remedy


def test_a_stack_that_does_not_exist_names_the_region_and_the_way_out(account: Account) -> None:
    client = account("cloudformation")
    client.describe_stacks = lambda **_: (_ for _ in ()).throw(refused("ValidationError"))
    account._cloudformation = lambda: client  # type: ignore[method-assign]
    (found,) = bad(account)
    assert found.text.startswith("the stack 'plant' in eu-central-1 cannot be read")
    assert "--region" in found.remedy


def test_the_json_form_is_stable(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    account.outputs.clear()
    show_result(examined(account), "json", lambda _: None)
    assert capsys.readouterr().out == golden_text("doctor")


def test_problems_are_printed_with_what_to_do_and_are_exit_code_1(
    account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis.stack, "client", account)  # type: ignore[attr-defined]
    monkeypatch.setattr(diagnosis.time, "time_ns", lambda: NOW * 1_000_000)  # type: ignore[attr-defined]
    diagnose(certificates=100, stack_name="plant", output="text")  # healthy: no exit
    account.dead = 1
    account.devices = [device(1, work_error="\x1b[2Jgone")]
    with pytest.raises(SystemExit) as ended:
        diagnose(certificates=100, stack_name="plant", output="text")
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert (
        "problem  dead letters: 1 message could not be processed\n         to do: `fedgrass queue show`"
        in printed
    )
    assert "\x1b" not in printed
    assert printed.rstrip().endswith("about plant in eu-central-1: 2 problems")


def test_a_mistake_in_a_check_is_not_hidden(account: Account) -> None:
    account.errors["s3"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        examined(account)


def test_a_raised_alarm_is_a_problem_with_what_it_is_about(account: Account) -> None:
    account.raised = {"DeadLettersWait"}
    (finding,) = bad(account)
    assert (finding.check, finding.state) == ("alarms", "problem")
    assert finding.text == "DeadLettersWait is raised: what DeadLettersWait is about"
    assert "docs/operations.md" in finding.remedy


def test_an_alarm_that_somebody_deleted_is_a_problem(account: Account) -> None:
    account.gone = {"DeadLettersWait"}
    (finding,) = bad(account)
    assert finding.text == "the alarm DeadLettersWait (real-DeadLettersWait) is gone"


def test_a_stack_without_alarms_asks_for_none(account: Account) -> None:
    account.resources = {
        name: one for name, one in account.resources.items() if one[0] != "AWS::CloudWatch::Alarm"
    }
    account.errors["cloudwatch"] = StackError("not asked")
    assert not [one for one in bad(account) if one.check == "alarms"]
