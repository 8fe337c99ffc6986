"""``--task`` of a deployment: the component, the trainer's configuration, and how both are removed."""

import json
from typing import Any

import pytest

from fedgrass.console.deploy.device_deployment import configurations
from fedgrass.console.deploy.device_plan import Asked, Plan, make_plan
from fedgrass.console.greengrass_cloud import GreengrassCloud
from fedgrass.federation.errors import SettingsError
from tests.fakes.stubbed_aws import StubbedAws
from tests.unit.console.deploy.conftest import STACK
from tests.unit.console.deploy.test_device_deployment import (
    OLD,
    TRAINER,
    cloud_of,
    expect_group,
    expect_things,
    expect_versions,
)

COMPONENT = "com.fedgrass.task.cracks"


@pytest.fixture
def aws() -> StubbedAws:
    return StubbedAws()


def planned(
    aws: StubbedAws, old: dict[str, Any] | None, versions: dict[str, list[str]], **asked: Any
) -> Plan:
    cloud: GreengrassCloud = cloud_of(aws)
    expect_group(aws, old)
    for name, published in versions.items():
        expect_versions(aws, name, *published)
    expect_things(aws)
    return make_plan(cloud, STACK, Asked(group="presses", **asked))


def merged(plan: Plan, name: str) -> Any:
    return configurations(plan.arguments["components"]).get(name, {})


def deployed(**trainer: Any) -> dict[str, Any]:
    update = {"merge": json.dumps(trainer)}
    given = {"componentVersion": "0.1.0", "configurationUpdate": update, "runWith": {"posixUser": "ml:ml"}}
    return {**OLD, "components": {TRAINER: given}}


def test_a_task_comes_with_the_latest_trainer_in_a_new_group(aws: StubbedAws) -> None:
    plan = planned(aws, None, {COMPONENT: ["1.2.0", "1.1.0"], TRAINER: ["0.2.0"]}, tasks=["cracks"])
    components = plan.arguments["components"]
    assert {name: given["componentVersion"] for name, given in components.items()} == {
        COMPONENT: "1.2.0", TRAINER: "0.2.0",
    }  # fmt: skip
    assert merged(plan, TRAINER) == {"fleet": "plant", "tasks": {"cracks": {"component": COMPONENT}}}
    assert merged(plan, COMPONENT) == {}


def test_the_deployed_trainer_keeps_its_version_and_the_tasks_other_options(aws: StubbedAws) -> None:
    tasks = {
        "cracks": {"folder": "/data", "module": "cracks:Cracks", "path": "/opt"},
        "mnist": {"folder": "/m"},
    }
    old = deployed(python="/opt/ml/bin/python", tasks=tasks)
    plan = planned(
        aws, old, {COMPONENT: ["1.3.0", "1.2.0"], TRAINER: ["0.2.0", "0.1.0"]}, tasks=["cracks=1.2.0"]
    )
    trainer, code = (plan.arguments["components"][name] for name in (TRAINER, COMPONENT))
    assert (trainer["componentVersion"], code["componentVersion"]) == ("0.1.0", "1.2.0")
    assert merged(plan, TRAINER)["tasks"] == {
        "cracks": {"folder": "/data", "component": COMPONENT},
        "mnist": {"folder": "/m"},
    }
    # Devices have the code that was put there by hand in their own configuration.
    assert trainer["configurationUpdate"]["reset"] == ["/tasks/cracks/module", "/tasks/cracks/path"]
    assert merged(plan, COMPONENT) == {"python": "/opt/ml/bin/python"}
    assert code["runWith"] == {"posixUser": "ml:ml"}
    assert "com.fedgrass.Trainer stays at 0.1.0; update it by --component trainer" in plan.notes


def test_a_new_version_changes_nothing_of_the_trainer(aws: StubbedAws) -> None:
    old = deployed(fleet="plant", tasks={"cracks": {"component": COMPONENT}})
    old["components"][COMPONENT] = {"componentVersion": "1.2.0", "runWith": {"posixUser": "ml:ml"}}
    old = {**old, "tags": {"fedgrass:fleet": "plant"}}
    plan = planned(aws, old, {COMPONENT: ["1.3.0", "1.2.0"], TRAINER: ["0.1.0"]}, tasks=["cracks"])
    assert plan.changes == [f'~ components/{COMPONENT}/componentVersion: "1.2.0" -> "1.3.0"']


def test_options_of_the_operator_are_merged_with_the_component(aws: StubbedAws) -> None:
    plan = planned(
        aws,
        None,
        {COMPONENT: ["1.2.0"], TRAINER: ["0.2.0"]},
        tasks=["cracks"],
        configuration={TRAINER: {"threads": 2, "tasks": {"cracks": {"folder": "/data"}}}},
    )
    assert merged(plan, TRAINER)["tasks"] == {"cracks": {"component": COMPONENT, "folder": "/data"}}


def test_a_trainer_that_is_named_gets_its_latest_version(aws: StubbedAws) -> None:
    plan = planned(
        aws,
        deployed(),
        {TRAINER: ["0.2.0", "0.1.0"], COMPONENT: ["1.2.0"]},
        components=["trainer"],
        tasks=["cracks"],
    )
    assert plan.arguments["components"][TRAINER]["componentVersion"] == "0.2.0"


def test_a_disabled_task_is_enabled_again(aws: StubbedAws) -> None:
    old = deployed(tasks={"cracks": {"enabled": False}})
    plan = planned(aws, old, {COMPONENT: ["1.2.0"], TRAINER: ["0.1.0"]}, tasks=["cracks"])
    assert merged(plan, TRAINER)["tasks"] == {"cracks": {"component": COMPONENT}}


def test_a_predictor_that_serves_the_task_gets_its_code_too(aws: StubbedAws) -> None:
    predictor = "com.fedgrass.Predictor"
    old = deployed()
    update = {"merge": json.dumps({"tasks": {"cracks": {"module": "cracks:Cracks"}}})}
    old["components"][predictor] = {"componentVersion": "0.1.0", "configurationUpdate": update}
    plan = planned(
        aws, old, {COMPONENT: ["1.2.0"], TRAINER: ["0.1.0"], predictor: ["0.1.0"]}, tasks=["cracks"]
    )
    assert merged(plan, predictor)["tasks"] == {"cracks": {"component": COMPONENT}}


def test_a_removed_task_leaves_nothing_of_its_own(aws: StubbedAws) -> None:
    old = deployed(threads=2, tasks={"cracks": {"component": COMPONENT, "folder": "/data"}})
    old["components"][COMPONENT] = {"componentVersion": "1.2.0"}
    plan = planned(aws, old, {}, tasks=["cracks"], remove=True)
    components = plan.arguments["components"]
    assert list(components) == [TRAINER]
    assert merged(plan, TRAINER) == {"threads": 2, "tasks": {}}
    assert components[TRAINER]["configurationUpdate"]["reset"] == ["/tasks/cracks"]


def test_a_flower_app_is_deployed_by_the_name_of_its_task(aws: StubbedAws) -> None:
    code = "com.fedgrass.task.flower.mean-of"
    old = deployed(tasks={"flower:mean-of": {"path": "/opt"}})
    plan = planned(
        aws,
        old,
        {TRAINER: ["0.2.0", "0.1.0"], code: ["1.2.0"]},
        tasks=["flower:mean-of=1.2.0"],
        components=["trainer"],
        options=["flower:mean-of.node-partition-id=3"],
    )
    assert merged(plan, TRAINER)["tasks"]["flower:mean-of"] == {"component": code, "node-partition-id": 3}
    assert plan.arguments["components"][code]["componentVersion"] == "1.2.0"


def test_a_flower_app_that_was_not_published_is_named_with_the_way_out(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, None)
    expect_versions(aws, "com.fedgrass.task.flower.mean")
    with pytest.raises(
        SettingsError, match=r"no component 'com.*flower.mean'.*`fedgrass flower add APP_DIR`"
    ):
        make_plan(cloud, STACK, Asked(group="presses", tasks=["flower:mean"]))


def refused(aws: StubbedAws, old: dict[str, Any] | None, **asked: Any) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, old)
    make_plan(cloud, STACK, Asked(group="presses", **asked))


def test_a_task_that_was_not_published_is_named_with_the_way_out(aws: StubbedAws) -> None:
    cloud = cloud_of(aws)
    expect_group(aws, None)
    expect_versions(aws, COMPONENT)
    with pytest.raises(
        SettingsError, match=r"no component 'com\.fedgrass\.task\.cracks'.*fedgrass task publish"
    ):
        make_plan(cloud, STACK, Asked(group="presses", tasks=["cracks"]))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tasks": ["Cracks"]}, "'Cracks' cannot name a task"),
        ({"tasks": ["cracks=1.0.0", "cracks=1.1.0"]}, "names 'cracks' twice"),
        ({"tasks": ["cracks"], "remove": True}, "the task 'cracks' is not deployed to 'presses'"),
    ],
)
def test_a_task_that_cannot_be_meant_is_refused(aws: StubbedAws, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        refused(aws, deployed(), **asked)
