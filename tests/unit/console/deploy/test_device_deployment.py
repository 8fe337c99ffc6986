"""Deployments to thing groups: what a revision keeps and changes, and the calls that make it.

The embedded cloud has no GreengrassV2: the calls are checked against the service model by botocore's Stubber.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console import stack
from fedgrass.console.deploy.component_configuration import full_name
from fedgrass.console.deploy.device_deployment import Limits, Rollout, Wanted, changes, merge, revision
from fedgrass.console.deploy.device_plan import Asked, make_plan, read_configuration
from fedgrass.console.greengrass_cloud import Account, DeploymentError, GreengrassCloud, Progress
from fedgrass.console.main import parse
from fedgrass.console.stack import StackError
from fedgrass.federation.errors import SettingsError
from tests.fakes.stubbed_aws import ACCOUNT, REGION, StubbedAws
from tests.unit.console.deploy.conftest import STACK

TRAINER = "com.fedgrass.Trainer"
PREDICTOR = "com.fedgrass.Predictor"
GROUP = f"arn:aws:iot:{REGION}:{ACCOUNT}:thinggroup/presses"
DEPLOYMENT = "11111111-2222-3333-4444-555555555555"
# By another operator: another component, other policies, a configuration of the trainer.
OLD: dict[str, Any] = {
    "targetArn": GROUP,
    "deploymentId": DEPLOYMENT,
    "deploymentName": "presses, spring",
    "deploymentStatus": "ACTIVE",
    "components": {
        "com.example.Camera": {"componentVersion": "3.1.0", "runWith": {"posixUser": "camera"}},
        TRAINER: {
            "componentVersion": "0.1.0",
            "configurationUpdate": {"merge": '{"fleet": "plant", "threads": 2}', "reset": ["/old"]},
        },
    },
    "deploymentPolicies": {
        "failureHandlingPolicy": "DO_NOTHING",
        "componentUpdatePolicy": {"timeoutInSeconds": 90, "action": "SKIP_NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeoutInSeconds": 20},
    },
    "iotJobConfiguration": {"timeoutConfig": {"inProgressTimeoutInMinutes": 60}},
    "tags": {"owner": "works"},
}


def cloud_of(aws: StubbedAws) -> GreengrassCloud:
    aws.expect_account()
    return GreengrassCloud(aws.client, Account(aws.client))


def expect_group(aws: StubbedAws, old: dict[str, Any] | None) -> None:
    aws.expect(
        "iot",
        "describe_thing_group",
        {"thingGroupName": "presses", "thingGroupArn": GROUP},
        thingGroupName="presses",
    )
    summaries = [{"deploymentId": DEPLOYMENT, "targetArn": GROUP, "isLatestForTarget": True}] if old else []
    aws.expect(
        "greengrassv2",
        "list_deployments",
        {"deployments": summaries},
        targetArn=GROUP,
        historyFilter="LATEST_ONLY",
    )
    if old:
        aws.expect("greengrassv2", "get_deployment", old, deploymentId=DEPLOYMENT)


def expect_versions(aws: StubbedAws, name: str, *versions: str) -> None:
    owner = "aws" if name.startswith("aws.") else ACCOUNT
    arn = f"arn:aws:greengrass:{REGION}:{owner}:components:{name}"
    listed = [{"componentName": name, "componentVersion": version, "arn": arn} for version in versions]
    aws.expect("greengrassv2", "list_component_versions", {"componentVersions": listed}, arn=arn)


def expect_things(aws: StubbedAws, *things: str) -> None:
    aws.expect("iot", "list_things_in_thing_group", {"things": list(things)}, thingGroupName="presses")
    expect_lite(aws)


def expect_lite(aws: StubbedAws, *lite: str) -> None:
    """Expect the request for the devices of the group with Nucleus Lite."""
    devices = [{"coreDeviceThingName": thing, "status": "HEALTHY"} for thing in lite]
    aws.expect(
        "greengrassv2",
        "list_core_devices",
        {"coreDevices": devices},
        thingGroupArn=GROUP,
        runtime="aws_nucleus_lite",
    )


def test_the_first_deployment_of_a_group_has_the_defaults() -> None:
    wanted = Wanted(components={TRAINER: "0.1.0"}, configuration={TRAINER: {"fleet": "plant"}})
    assert revision(GROUP, "presses", {}, wanted) == {
        "targetArn": GROUP,
        "deploymentName": "fedgrass to presses",
        "components": {
            TRAINER: {"componentVersion": "0.1.0", "configurationUpdate": {"merge": '{"fleet": "plant"}'}}
        },
        "deploymentPolicies": {
            "failureHandlingPolicy": "ROLLBACK",
            "componentUpdatePolicy": {"action": "NOTIFY_COMPONENTS", "timeoutInSeconds": 60},
        },
    }


def test_a_revision_keeps_what_is_not_named() -> None:
    before = json.dumps(OLD, sort_keys=True)
    wanted = Wanted(components={TRAINER: "0.2.0"}, configuration={TRAINER: {"heartbeat_seconds": 30}})
    made = revision(GROUP, "presses", OLD, wanted)
    camera, trainer = made["components"]["com.example.Camera"], made["components"][TRAINER]
    assert camera == OLD["components"]["com.example.Camera"]
    assert trainer["componentVersion"] == "0.2.0"
    assert trainer["configurationUpdate"]["reset"] == ["/old"]
    assert json.loads(trainer["configurationUpdate"]["merge"]) == {
        "fleet": "plant", "threads": 2, "heartbeat_seconds": 30,
    }  # fmt: skip
    for kept in ("deploymentName", "deploymentPolicies", "iotJobConfiguration", "tags"):
        assert made[kept] == OLD[kept]
    assert json.dumps(OLD, sort_keys=True) == before


def test_what_is_asked_for_takes_the_place_of_what_was_there() -> None:
    wanted = Wanted(
        components={TRAINER: "0.1.0"},
        limits=Limits(posix_user="trainer:trainer", cpus=1.5, memory_megabytes=512),
        limited=[TRAINER],
        rollout=Rollout(
            per_minute=10, timeout_minutes=30, abort_percent=20, on_failure="ROLLBACK", update_seconds=45
        ),
    )
    made = revision(GROUP, "presses", OLD, wanted)
    assert made["components"][TRAINER]["runWith"] == {
        "posixUser": "trainer:trainer",
        "systemResourceLimits": {"cpus": 1.5, "memory": 512 * 1024},
    }
    assert made["components"]["com.example.Camera"]["runWith"] == {"posixUser": "camera"}
    assert made["deploymentPolicies"]["failureHandlingPolicy"] == "ROLLBACK"
    assert made["deploymentPolicies"]["componentUpdatePolicy"]["timeoutInSeconds"] == 45
    assert made["iotJobConfiguration"] == {
        "jobExecutionsRolloutConfig": {"maximumPerMinute": 10},
        "timeoutConfig": {"inProgressTimeoutInMinutes": 30},
        "abortConfig": {
            "criteriaList": [
                {
                    "failureType": "FAILED",
                    "action": "CANCEL",
                    "minNumberOfExecutedThings": 1,
                    "thresholdPercentage": 20,
                }
            ]
        },
    }


def test_changes_are_listed_value_by_value() -> None:
    wanted = Wanted(
        components={TRAINER: "0.2.0", PREDICTOR: "0.2.0"},
        configuration={TRAINER: {"threads": 4}},
        removed=["com.example.Camera"],
    )
    assert changes(OLD, revision(GROUP, "presses", OLD, wanted)) == [
        '- components/com.example.Camera/componentVersion: "3.1.0"',
        '- components/com.example.Camera/runWith/posixUser: "camera"',
        f'+ components/{PREDICTOR}/componentVersion: "0.2.0"',
        f'~ components/{TRAINER}/componentVersion: "0.1.0" -> "0.2.0"',
        f"~ components/{TRAINER}/configurationUpdate/merge/threads: 2 -> 4",
    ]


@given(st.data())
def test_a_revision_of_a_revision_with_the_same_wishes_changes_nothing(data: st.DataObject) -> None:
    texts = st.text("ab/", min_size=1, max_size=3)
    values = st.recursive(
        st.none() | st.integers() | texts,
        lambda inner: st.dictionaries(texts, inner, max_size=3),
        max_leaves=4,
    )
    configuration = data.draw(st.dictionaries(texts, values, max_size=3))
    wanted = Wanted(components={TRAINER: "0.2.0"}, configuration={TRAINER: configuration})
    once = revision(GROUP, "presses", data.draw(st.sampled_from([{}, OLD])), wanted)
    assert changes(once, revision(GROUP, "presses", once, wanted)) == []


def test_a_configuration_is_merged_as_a_nucleus_merges_it() -> None:
    assert merge({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2], "e": None}, "d": {"f": 1}}) == {
        "a": {"b": 1, "c": [2], "e": None},
        "d": {"f": 1},
    }


def test_the_trainer_is_deployed_in_its_latest_version_with_outputs_of_the_stack(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, None)
    expect_versions(aws, TRAINER, "0.2.0", "0.1.0")
    expect_things(aws, "press-1", "press-2")
    plan = make_plan(cloud, STACK, Asked(group="presses", components=["trainer"]))
    assert plan.things == 2
    (component,) = plan.arguments["components"].items()
    assert component == (
        TRAINER,
        {"componentVersion": "0.2.0", "configurationUpdate": {"merge": '{"fleet": "plant"}'}},
    )
    assert plan.arguments["tags"] == {"fedgrass:fleet": "plant"}
    assert "Nucleus" in plan.notes[0]
    aws.expect("greengrassv2", "create_deployment", {"deploymentId": "d-2"}, **plan.arguments)
    assert cloud.deploy(plan.arguments) == "d-2"
    aws.all_came()


def test_the_predictor_is_configured_with_the_bucket_and_public_components_may_come_too(
    aws: StubbedAws,
) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, OLD)
    expect_versions(aws, PREDICTOR, "0.1.0")
    expect_versions(aws, "aws.greengrass.Nucleus", "2.15.0", "2.14.0")
    expect_things(aws)
    asked = Asked(
        group="presses",
        components=["predictor=0.1.0", "aws.greengrass.Nucleus=2.14.0"],
        configuration={PREDICTOR: {"http_port": 0}},
        limits=Limits(cpus=1),
    )
    plan = make_plan(cloud, STACK, asked)
    components = plan.arguments["components"]
    assert json.loads(components[PREDICTOR]["configurationUpdate"]["merge"]) == {
        "fleet": "plant", "bucket": "plant-bucket", "http_port": 0,
    }  # fmt: skip
    assert components["aws.greengrass.Nucleus"] == {"componentVersion": "2.14.0"}
    assert set(components) == {"com.example.Camera", TRAINER, PREDICTOR, "aws.greengrass.Nucleus"}
    assert plan.notes == []


def test_taking_components_away_leaves_the_others(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, OLD)
    expect_things(aws)
    plan = make_plan(cloud, STACK, Asked(group="presses", components=["trainer"], remove=True))
    assert list(plan.arguments["components"]) == ["com.example.Camera"]
    # The last component can be removed too: an empty deployment removes all.
    assert revision(GROUP, "presses", OLD, Wanted(removed=list(OLD["components"])))["components"] == {}


def test_a_component_that_is_not_deployed_cannot_be_taken_away(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, OLD)
    with pytest.raises(SettingsError, match=r"'com.fedgrass.Predictor' is not deployed to 'presses'"):
        make_plan(cloud, STACK, Asked(group="presses", components=["predictor"], remove=True))


def test_a_group_that_does_not_exist_is_named_with_the_nearest(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    aws.refuse("iot", "describe_thing_group", "ResourceNotFoundException", thingGroupName="pres")
    groups = [{"groupName": name, "groupArn": GROUP} for name in ("lathes", "presses")]
    aws.expect("iot", "list_thing_groups", {"thingGroups": groups})
    with pytest.raises(SettingsError, match=rf"no thing group 'pres' in account {ACCOUNT}.*'presses'"):
        make_plan(cloud, STACK, Asked(group="pres", components=["trainer"]))


def test_without_any_group_the_message_names_how_to_create_one(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    aws.refuse("iot", "describe_thing_group", "ResourceNotFoundException", thingGroupName="presses")
    aws.expect("iot", "list_thing_groups", {"thingGroups": []})
    with pytest.raises(SettingsError, match=r"there are none\. Create it by `aws iot create-thing"):
        make_plan(cloud, STACK, Asked(group="presses", components=["trainer"]))


@pytest.mark.parametrize(
    ("component", "published", "words"),
    [
        (
            "trainer",
            [],
            "no component 'com.fedgrass.Trainer'.*publish it by `fedgrass deploy component trainer`",
        ),
        ("trainer=0.3.0", ["0.2.0", "0.1.0"], "no version '0.3.0' of 'com.fedgrass.Trainer'.*0.2.0"),
        ("com.example.Absent", [], "no component 'com.example.Absent'.*check its name"),
    ],
)
def test_a_version_that_does_not_exist_is_named(
    aws: StubbedAws, component: str, published: list[str], words: str
) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, None)
    expect_versions(aws, full_name(component.partition("=")[0]), *published)
    with pytest.raises(SettingsError, match=words):
        make_plan(cloud, STACK, Asked(group="presses", components=[component]))
    aws.all_came()


def test_a_component_that_greengrass_does_not_know_has_no_versions(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    aws.refuse("greengrassv2", "list_component_versions", "ResourceNotFoundException")
    assert cloud.versions(TRAINER) == []


def test_other_refusals_are_not_taken_for_absence(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    aws.refuse("greengrassv2", "list_component_versions", "AccessDeniedException")
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.versions(TRAINER)


def test_credentials_of_another_account_are_refused_before_anything_is_done(aws: StubbedAws) -> None:
    aws.expect_account("999999999999")
    with pytest.raises(SettingsError, match=rf"account 999999999999.*--account is {ACCOUNT}.*AWS_PROFILE"):
        Account(aws.client, ACCOUNT)


def test_what_greengrass_refuses_is_reported_with_the_field(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    aws.refuse("greengrassv2", "create_deployment", "ValidationException", "component versions conflict")
    with pytest.raises(DeploymentError, match="nothing was changed: component versions conflict"):
        cloud.deploy(revision(GROUP, "presses", OLD, Wanted()))


def test_a_configuration_of_a_component_that_is_not_deployed_is_refused(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, None)
    expect_versions(aws, TRAINER, "0.1.0")
    asked = Asked(group="presses", components=["trainer"], configuration={PREDICTOR: {"http_port": 0}})
    with pytest.raises(SettingsError, match=r"'com.fedgrass.Predictor', which is not in --component"):
        make_plan(cloud, STACK, asked)


def test_a_configuration_is_read_from_yaml_and_json(tmp_path: Path) -> None:
    file = tmp_path / "configuration.yaml"
    file.write_text("trainer: {threads: 2}\ncom.example.Camera: {zoom: 3}\n")
    assert read_configuration(file) == {TRAINER: {"threads": 2}, "com.example.Camera": {"zoom": 3}}
    file.write_text('{"predictor": {"tasks": {"digits": null}}}')
    assert read_configuration(file) == {PREDICTOR: {"tasks": {"digits": None}}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "neither YAML nor JSON"),
        ("[1]", "it takes an object per component"),
        ("trainer: 3", "it takes an object per component"),
        ("trainr: {threads: 1}", "there is no component 'trainr' of fedgrass .*did you mean 'trainer'"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "configuration.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words):
        read_configuration(file)


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent.yaml cannot be read: No such file"):
        read_configuration(tmp_path / "absent.yaml")


# ------------------------------------------------------------------ the command


def test_a_dry_run_shows_the_changes_and_makes_none(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    aws.expect_account()
    expect_group(aws, OLD)
    expect_versions(aws, TRAINER, "0.2.0", "0.1.0")
    expect_things(aws, "press-1")
    run("--dry-run", "--cpus", "0.5")
    told = capsys.readouterr().out
    assert "the deployment to presses (1 things):" in told
    assert f'~ components/{TRAINER}/componentVersion: "0.1.0" -> "0.2.0"' in told
    assert f"+ components/{TRAINER}/runWith/systemResourceLimits/cpus: 0.5" in told
    assert "nothing was changed (--dry-run)" in told
    aws.all_came()


def test_nothing_is_created_where_nothing_changes(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    same = {**OLD, "tags": {**OLD["tags"], "fedgrass:fleet": "plant"}}
    aws.expect_account()
    expect_group(aws, same)
    expect_versions(aws, TRAINER, "0.1.0")
    expect_things(aws)
    aws.expect("greengrassv2", "get_deployment", same, deploymentId=DEPLOYMENT)
    run()
    assert "nothing to change" in capsys.readouterr().out
    aws.all_came()


def expect_progress(aws: StubbedAws, **counts: int) -> None:
    found = {"deploymentId": "d-2", "deploymentStatus": "ACTIVE", "iotJobId": "job-1"}
    aws.expect("greengrassv2", "get_deployment", found, deploymentId="d-2")
    details = {f"numberOf{name}Things": count for name, count in counts.items()}
    aws.expect("iot", "describe_job", {"job": {"jobProcessDetails": details}}, jobId="job-1")


def expect_executions(aws: StubbedAws, **states: str) -> None:
    summaries = [
        {
            "thingArn": f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/{thing}",
            "jobExecutionSummary": {"status": status},
        }
        for thing, status in states.items()
    ]
    aws.expect("iot", "list_job_executions_for_job", {"executionSummaries": summaries}, jobId="job-1")


def expect_creation(aws: StubbedAws) -> None:
    aws.expect_account()
    expect_group(aws, None)
    expect_versions(aws, TRAINER, "0.1.0")
    expect_things(aws, "press-1", "press-2")
    aws.expect("greengrassv2", "create_deployment", {"deploymentId": "d-2"})


def test_a_roll_out_is_watched_until_every_device_is_through(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    expect_creation(aws)
    expect_progress(aws)
    expect_progress(aws, Queued=1, InProgress=1)
    expect_progress(aws, Queued=1, InProgress=1)
    expect_progress(aws, Succeeded=2)
    run("--watch")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "0 succeeded, 0 failed, 0 in progress, 0 queued",
        "0 succeeded, 0 failed, 1 in progress, 1 queued",
        "2 succeeded, 0 failed, 0 in progress, 0 queued",
    ]
    aws.all_came()


def test_a_device_that_fails_is_named_with_its_reason(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    expect_creation(aws)
    expect_progress(aws, Succeeded=1, Failed=1)
    found = {"deploymentId": "d-2", "deploymentStatus": "ACTIVE", "iotJobId": "job-1"}
    aws.expect("greengrassv2", "get_deployment", found, deploymentId="d-2")
    expect_executions(aws, **{"press-1": "SUCCEEDED", "press-2": "FAILED"})
    effective = {
        "deploymentId": "d-2",
        "deploymentName": "x",
        "targetArn": GROUP,
        "coreDeviceExecutionStatus": "FAILED",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "modifiedTimestamp": "2026-01-01T00:00:00Z",
        "reason": "rolled back",
        "statusDetails": {"errorStack": ["COMPONENT_BROKEN"]},
    }
    aws.expect(
        "greengrassv2", "list_effective_deployments", {"effectiveDeployments": [effective]},
        coreDeviceThingName="press-2",
    )  # fmt: skip
    with pytest.raises(SystemExit, match="1 devices failed"):
        run("--watch")
    assert "press-2: rolled back, COMPONENT_BROKEN" in capsys.readouterr().out
    aws.all_came()


def test_a_deployment_with_no_devices_yet_is_not_over() -> None:
    assert not Progress(status="ACTIVE").over
    assert Progress(status="CANCELED").over


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rate", "0"], "fedgrass deploy devices: --rate: '0' is not a whole number from 1 to 1,000"),
        (["--cpus", "-1"], "fedgrass deploy devices: --cpus: '-1' is not a number from 0.01"),
        (["--cpus", "many"], "fedgrass deploy devices: --cpus: 'many' is not a number"),
        (
            ["--memory-megabytes", "1.5"],
            "fedgrass deploy devices: --memory-megabytes: '1.5' is not a whole number",
        ),
        (["--abort-percent", "nan"], "fedgrass deploy devices: --abort-percent: 'nan' is not a number"),
    ],
)
def test_a_limit_that_is_none_is_refused_before_aws_is_asked(
    run: Callable[..., None], words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(*words)
    assert complaint in capsys.readouterr().err


def test_a_missing_region_is_reported_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    stack.client.cache_clear()
    command = parse(["deploy", "devices", "--group", "presses"])
    with pytest.raises(StackError, match=r"region.*AWS_REGION"):
        command()
