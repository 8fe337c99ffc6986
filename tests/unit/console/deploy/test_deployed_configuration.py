"""Configurations are checked before deployment, and a failed deployment is not reported as done."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.predictor.predictor_configuration import parse_configuration as read_predictor
from components.runtime.component_errors import ConfigurationError
from components.trainer.trainer_configuration import parse_configuration as read_trainer
from fedgrass.console.deploy.component_configuration import check_configuration, document_parts, nulls
from fedgrass.console.deploy.device_deployment import Wanted, merge, revision
from fedgrass.console.deploy.task_options import check_task_options
from fedgrass.federation.errors import SettingsError
from tests.fakes.stubbed_aws import StubbedAws
from tests.unit.console.deploy.test_device_deployment import (
    DEPLOYMENT,
    GROUP,
    OLD,
    PREDICTOR,
    TRAINER,
    expect_executions,
    expect_group,
    expect_lite,
    expect_versions,
)

JOB = {**OLD, "iotJobId": "job-1", "tags": {**OLD["tags"], "fedgrass:fleet": "plant"}}


def expect_plan(aws: StubbedAws, old: dict[str, Any] | None, *lite: str, things: int = 2) -> None:
    aws.expect_account()
    expect_group(aws, old)
    expect_versions(aws, TRAINER, "0.1.0")
    names = [f"press-{number}" for number in range(1, things + 1)]
    aws.expect("iot", "list_things_in_thing_group", {"things": names}, thingGroupName="presses")
    expect_lite(aws, *lite)


def expect_states(aws: StubbedAws, **states: str) -> None:
    aws.expect("greengrassv2", "get_deployment", JOB, deploymentId=DEPLOYMENT)
    expect_executions(aws, **states)


def expect_reason(aws: StubbedAws, thing: str, reason: str) -> None:
    effective = {
        "deploymentId": DEPLOYMENT,
        "deploymentName": "x",
        "targetArn": GROUP,
        "coreDeviceExecutionStatus": "FAILED",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "modifiedTimestamp": "2026-01-01T00:00:00Z",
        "reason": reason,
    }
    aws.expect(
        "greengrassv2",
        "list_effective_deployments",
        {"effectiveDeployments": [effective]},
        coreDeviceThingName=thing,
    )


# ---------------------------------------------------------------- a deployment that failed


@pytest.mark.parametrize("watched", [[], ["--watch"]])
def test_a_deployment_that_failed_is_not_taken_for_done(
    aws: StubbedAws, run: Callable[..., None], watched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expect_plan(aws, JOB)
    if watched:
        aws.expect("greengrassv2", "get_deployment", JOB, deploymentId=DEPLOYMENT)
        counts = {"numberOfSucceededThings": 1, "numberOfFailedThings": 1}
        aws.expect("iot", "describe_job", {"job": {"jobProcessDetails": counts}}, jobId="job-1")
    expect_states(aws, **{"press-1": "SUCCEEDED", "press-2": "FAILED"})
    expect_reason(aws, "press-2", "the null stays")
    with pytest.raises(SystemExit) as ended:
        run(*watched)
    assert "--again" in str(ended.value.code)
    told = capsys.readouterr().out
    assert "nothing to change" in told
    assert "press-2: the null stays" in told
    aws.all_came()


@pytest.mark.parametrize("status", ["TIMED_OUT", "REJECTED", "CANCELED"])
def test_every_way_to_fail_is_one(aws: StubbedAws, run: Callable[..., None], status: str) -> None:
    expect_plan(aws, JOB)
    expect_states(aws, **{"press-1": status})
    expect_reason(aws, "press-1", "gone")
    with pytest.raises(SystemExit):
        run()


def test_a_deployment_that_all_devices_have_is_done_and_each_device_is_shown(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    expect_plan(aws, JOB)
    expect_states(aws, **{"press-1": "SUCCEEDED", "press-2": "QUEUED"})
    run()
    told = capsys.readouterr().out
    assert "SUCCEEDED   press-1" in told
    assert "QUEUED      press-2" in told


def test_again_sends_the_same_deployment_once_more(aws: StubbedAws, run: Callable[..., None]) -> None:
    expect_plan(aws, JOB)
    aws.expect("greengrassv2", "create_deployment", {"deploymentId": "d-2"})
    run("--again")
    aws.all_came()


def test_again_makes_the_first_deployment_where_there_is_none(
    aws: StubbedAws, run: Callable[..., None]
) -> None:
    expect_plan(aws, None)
    aws.expect("greengrassv2", "create_deployment", {"deploymentId": "d-1"})
    run("--again")
    aws.all_came()


# ---------------------------------------------------------------- a removed task


@pytest.mark.parametrize("word", [False, "false", "False", "FALSE"])
@pytest.mark.parametrize("read", [read_trainer, read_predictor])
def test_both_components_take_a_task_away_by_a_value_that_both_nuclei_merge(
    read: Callable[[dict[str, Any]], Any], word: object
) -> None:
    recipe = {"tasks": {"digits": {"share": 0, "shares": 1}}}
    merged = merge(recipe, {"tasks": {"digits": {"enabled": word}, "noise": {"enabled": "true"}}})
    assert read(merged).tasks == {"noise": {}}


@pytest.mark.parametrize("word", ["perhaps", 1, 0, None, [], {}, 1.5])
@pytest.mark.parametrize("read", [read_trainer, read_predictor])
def test_a_word_that_is_neither_true_nor_false_is_refused_by_name(
    read: Callable[[dict[str, Any]], Any], word: object
) -> None:
    with pytest.raises(Exception, match=r"tasks\.digits\.enabled is .*: it takes true or false") as refused:
        read({"tasks": {"digits": {"enabled": word}}})
    assert "ConfigurationError" in type(refused.value).__name__


def test_a_null_is_still_read_where_it_has_been_deployed_before() -> None:
    assert read_trainer({"tasks": {"digits": None, "noise": {}}}).tasks == {"noise": {}}


def configured(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "presses.yaml"
    file.write_text(text)
    return ["--configuration", str(file)]


NULLS = [
    ("trainer: {tasks: {digits: null}}", "/tasks/digits"),
    ("trainer: {attributes: {site: null}}", "/attributes/site"),
    ("trainer: {threads: null}", "/threads"),
    ("trainer: {tasks: {own: {module: a.b:C, path: ~}}}", "/tasks/own/path"),
]


@pytest.mark.parametrize(("text", "pointer"), NULLS)
def test_a_null_is_refused_before_it_is_sent(
    aws: StubbedAws,
    run: Callable[..., None],
    tmp_path: Path,
    text: str,
    pointer: str,
) -> None:
    expect_plan(aws, OLD)
    with pytest.raises(SettingsError) as refused:
        run(*configured(tmp_path, text))
    assert f"null at {pointer}" in str(refused.value)
    assert "{enabled: false}" in str(refused.value)
    assert f"--reset COMPONENT:{pointer}" in str(refused.value)


def with_null(configuration: str = '{"fleet": "plant", "tasks": {"digits": null}}') -> dict[str, Any]:
    trainer = {**OLD["components"][TRAINER], "configurationUpdate": {"merge": configuration}}
    return {**JOB, "components": {**OLD["components"], TRAINER: trainer}}


def test_a_null_of_an_earlier_deployment_is_refused_for_a_group_with_nucleus_lite(
    aws: StubbedAws, run: Callable[..., None]
) -> None:
    expect_plan(aws, with_null(), "press-2")
    with pytest.raises(SettingsError, match="null at /tasks/digits"):
        run("--cpus", "1")


def test_and_is_a_warning_for_a_group_of_classic_nuclei(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    expect_plan(aws, with_null())
    run("--cpus", "1", "--dry-run")
    assert (
        "note: the configuration of com.fedgrass.Trainer has null at /tasks/digits" in capsys.readouterr().out
    )


def test_a_reset_takes_the_value_out_of_the_merge_too(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    expect_plan(aws, with_null(), "press-2")
    run("--reset", "trainer:/tasks/digits", "--dry-run")
    told = capsys.readouterr().out
    assert f"- components/{TRAINER}/configurationUpdate/merge/tasks/digits: null" in told
    assert f'+ components/{TRAINER}/configurationUpdate/reset: ["/tasks/digits"]' in told


def test_a_reset_comes_before_what_is_merged() -> None:
    old = with_null('{"threads": 2, "tasks": {"digits": null, "own": {"module": "a:B"}}}')
    wanted = Wanted(
        components={TRAINER: "0.1.0"},
        reset={TRAINER: ["/tasks", "/threads"]},
        configuration={TRAINER: {"tasks": {"noise": {}}}},
    )
    update = revision(GROUP, "presses", old, wanted)["components"][TRAINER]["configurationUpdate"]
    assert json.loads(update["merge"]) == {"tasks": {"noise": {}}}
    assert update["reset"] == ["/tasks", "/threads"]


@pytest.mark.parametrize(
    "given", ["/tasks", "trainer", "trainer:tasks", "trainer:/", "trainer://x", "predictor:/a", ":"]
)
def test_a_reset_of_nothing_is_refused(aws: StubbedAws, run: Callable[..., None], given: str) -> None:
    aws.expect_account()
    expect_group(aws, OLD)
    expect_versions(aws, TRAINER, "0.1.0")
    with pytest.raises(SettingsError, match=r"--reset|no component"):
        run("--reset", given)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_every_null_is_found(value: object) -> None:
    assert len(list(nulls(value))) == json.dumps(value, default=str).count("null") - _in_texts(value)


def _in_texts(value: object) -> int:
    if isinstance(value, dict):
        return sum(key.count("null") + _in_texts(inner) for key, inner in value.items())
    return value.count("null") if isinstance(value, str) else 0


# ---------------------------------------------------------------- values that a component would refuse


BAD = [
    ("trainer: {threads: many}", "threads is 'many'"),
    ("trainer: {heartbeat_seconds: 0}", "heartbeat_seconds is 0"),
    ("trainer: {uploader: ftp}", "uploader is 'ftp'"),
    ("trainer: {tasks: {own: {module: nonsense}}}", "own"),
    ("trainer: {tasks: {nosuch: {}}}", "there is no task 'nosuch'"),
    ("trainer: {tasks: [digits]}", "tasks is ['digits']"),
    ("trainer: {train_when: {hours: 25}}", "train_when.hours is 25"),
    ("trainer: {upload_bytes_per_second: 1000}", "upload_bytes_per_second"),
    ("trainer: {attributes: {state: idle}}", "'state'"),
    ("trainer: {tasks: {digits: {enabled: maybe}}}", "tasks.digits.enabled is 'maybe'"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_value_that_the_trainer_would_refuse_is_not_deployed(  # fixtures
    aws: StubbedAws, run: Callable[..., None], tmp_path: Path, text: str, words: str
) -> None:
    expect_plan(aws, OLD)
    with pytest.raises(SettingsError) as refused:
        run(*configured(tmp_path, text))
    assert str(refused.value).startswith(f"{TRAINER} would refuse its configuration: ")
    assert words in str(refused.value)


def test_a_value_is_checked_over_what_earlier_deployments_left() -> None:
    check_configuration(TRAINER, {"uploader": "s3", "upload_bytes_per_second": 1000})
    with pytest.raises(SettingsError, match="16"):
        check_configuration(PREDICTOR, {"tasks": {"digits": {"enabled": False}}})
    check_configuration("com.example.Camera", {"anything": None})


def test_a_key_that_changes_nothing_is_a_note() -> None:
    (note,) = check_configuration(TRAINER, {"thread": 2})
    assert "thread" in note
    assert "did you mean 'threads'?" in note


def test_a_newer_component_may_be_configured_unchecked(
    aws: StubbedAws, run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_plan(aws, OLD)
    run(*configured(tmp_path, "trainer: {threads: many}"), "--unchecked", "--dry-run")
    assert '"many"' in capsys.readouterr().out


# ---------------------------------------------------------------- the capacity of Nucleus Lite


def tasks(count: int) -> dict[str, Any]:
    options = {
        "module": "plant.presses:Presses",
        "path": "/opt/presses",
        "share": 1,
        "shares": 4,
        "line": "north",
    }
    return {"tasks": {f"press-{number}": options for number in range(count)}}


def test_twelve_tasks_pass_and_sixteen_are_too_many_for_nucleus_lite() -> None:
    assert document_parts({TRAINER: tasks(12)}) <= 255
    assert document_parts({TRAINER: tasks(16)}) > 255


def test_a_deployment_that_nucleus_lite_would_refuse_is_not_sent(
    aws: StubbedAws, run: Callable[..., None], tmp_path: Path
) -> None:
    expect_plan(aws, OLD, "press-2")
    with pytest.raises(SettingsError, match=r"more than 255: configure fewer tasks"):
        run(*configured(tmp_path, json.dumps({"trainer": tasks(16)})))


def test_the_classic_nucleus_takes_it(aws: StubbedAws, run: Callable[..., None], tmp_path: Path) -> None:
    expect_plan(aws, OLD)
    aws.expect("greengrassv2", "create_deployment", {"deploymentId": "d-2"})
    run(*configured(tmp_path, json.dumps({"trainer": tasks(16)})))
    aws.all_came()


@pytest.mark.parametrize(
    ("lite", "words"),
    [
        ((), "pin it by --component aws.greengrass.Nucleus=VERSION"),
        (("press-1",), "not in a group with Nucleus Lite, which 1 of its 2 devices run"),
        (("press-1", "press-2"), ""),
    ],
)
def test_the_advice_fits_the_nucleus_of_the_group(
    aws: StubbedAws,
    run: Callable[..., None],
    lite: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expect_plan(aws, OLD, *lite)
    run("--cpus", "1", "--dry-run")
    told = capsys.readouterr().out
    assert ("note: the nucleus" in told) == bool(words)
    assert words in told


def test_the_trainer_s_error_stays_its_own() -> None:
    with pytest.raises(ConfigurationError):
        read_trainer({"tasks": {"digits": {"enabled": "no"}}})


def test_options_of_a_flower_app_are_those_of_its_task_and_of_its_node() -> None:
    pytest.importorskip("flwr")
    from components.trainer.flower.flower_task import FlowerTask  # noqa: PLC0415 - imports flwr

    kinds = inspect.signature(FlowerTask).parameters.values()
    own = [one.name for one in kinds if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = {
        **dict.fromkeys(own, "x"),
        "node-partition-id": 3,
        "component": "com.fedgrass.task.flower.mean",
    }
    check_task_options("flower:mean", options)


@pytest.mark.parametrize("name", ["partition-id", "node-", "array_key", "folder"])
def test_an_option_that_a_flower_app_cannot_have_is_refused_before_it_is_deployed(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"has no option .* node-NAME .* such as node-partition-id, and arrays_key"
    ):
        check_task_options("flower:mean", {name: 3})
