"""``fedgrass deploy devices --task``: what an operator sees."""

from collections.abc import Callable

import pytest

from tests.fakes.stubbed_aws import StubbedAws
from tests.unit.console.deploy.test_device_deployment import (
    OLD,
    TRAINER,
    expect_group,
    expect_things,
    expect_versions,
)

COMPONENT = "com.fedgrass.task.cracks"


def test_a_task_is_deployed_with_the_trainer_that_the_group_has(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    aws.expect_account()
    expect_group(aws, OLD)
    expect_versions(aws, COMPONENT, "1.3.0", "1.2.0")
    expect_versions(aws, TRAINER, "0.2.0", "0.1.0")
    expect_things(aws, "press-1")
    run("--task", "cracks=1.2.0", "--dry-run")
    shown = capsys.readouterr().out
    assert f'+ components/{COMPONENT}/componentVersion: "1.2.0"' in shown
    assert f'components/{TRAINER}/configurationUpdate/merge/tasks/cracks/component: "{COMPONENT}"' in shown
    assert f"components/{TRAINER}/componentVersion" not in shown
    assert f"note: {TRAINER} stays at 0.1.0" in shown
    aws.all_came()


def test_a_task_is_removed_and_the_trainer_stays(
    aws: StubbedAws, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    merge = f'{{"fleet": "plant", "tasks": {{"cracks": {{"component": "{COMPONENT}"}}}}}}'
    components = {
        COMPONENT: {"componentVersion": "1.2.0"},
        TRAINER: {"componentVersion": "0.1.0", "configurationUpdate": {"merge": merge}},
    }
    aws.expect_account()
    expect_group(aws, {**OLD, "components": components})
    expect_things(aws, "press-1")
    run("--task", "cracks", "--remove", "--dry-run")
    shown = capsys.readouterr().out
    assert f'- components/{COMPONENT}/componentVersion: "1.2.0"' in shown
    assert f"- components/{TRAINER}/configurationUpdate/merge/tasks/cracks/component" in shown
    assert f"components/{TRAINER}/componentVersion" not in shown
    aws.all_came()
