"""com.fedgrass.DeviceOptions: a recipe for both nuclei, whose version never changes, and its publication."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from components.runtime.device_options import COMPONENT, KEY, NONE, merge_device_options
from fedgrass.console.device_options import options_component
from fedgrass.console.device_options.options_component import (
    RECIPE,
    VERSION,
    configuration_of,
    publish,
    size_of,
)
from fedgrass.console.greengrass_cloud import Account, DeploymentError, GreengrassCloud
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.recipe.recipe_platform import select_manifest
from greengrass_emulator.recipe.recipe_reader import read_recipe
from tests.fakes.memory_greengrass import MemoryGreengrass


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=lambda profile: profile.name)
def test_the_recipe_fits_on_both_nuclei(profile: Profile) -> None:
    recipe = read_recipe(RECIPE, classic=profile is CLASSIC)
    assert (recipe.component_name, recipe.component_version) == (COMPONENT, VERSION)
    assert recipe.default_configuration == {KEY: NONE}
    assert recipe.component_dependencies == {}
    assert select_manifest(recipe, profile).artifacts == []


def test_the_only_script_has_nothing_that_a_nucleus_would_replace() -> None:
    (manifest,) = yaml.safe_load(RECIPE.read_text())["Manifests"]
    assert manifest["Lifecycle"] == {"run": {"Script": "exit 0"}}


def test_the_configuration_is_read_by_the_device_as_it_was_written() -> None:
    options: dict[str, dict[str, Any]] = {
        "digits": {"share": 3, "alpha": 0.5},
        "cracks": {"folder": 'a"\\é', "fast": True},
        "none": {},
    }
    text = configuration_of(options)[KEY]
    tasks = {"digits": {"share": 0}, "cracks": {}, "none": {}}
    assert merge_device_options({"tasks": tasks}, text)["tasks"] == options
    assert configuration_of(dict(reversed(options.items())))[KEY] == text, "the order changes nothing"
    assert configuration_of({}) == {KEY: NONE}
    assert size_of({}) == len('"{}"')


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> MemoryGreengrass:
    monkeypatch.setattr(options_component, "LOOK_SECONDS", 0.0)
    return MemoryGreengrass()


def published(cloud: MemoryGreengrass) -> None:
    publish(cloud.client, GreengrassCloud(cloud.client, Account(cloud.client)))


def test_the_component_is_published_without_an_artifact(cloud: MemoryGreengrass) -> None:
    published(cloud)
    assert cloud.versions == {COMPONENT: [VERSION]}


def test_another_operator_may_have_published_it_at_the_same_time(cloud: MemoryGreengrass) -> None:
    cloud.versions[COMPONENT] = [VERSION]
    cloud.refusals["CreateComponentVersion"] = ["ConflictException"]
    published(cloud)


def states(*names: str) -> Callable[..., dict[str, object]]:
    waiting = [*names]

    def describe(arn: str) -> dict[str, object]:
        return {"arn": arn, "status": {"componentState": waiting.pop(0), "message": "bad recipe"}}

    return describe


def test_it_is_waited_for(cloud: MemoryGreengrass) -> None:
    cloud._DescribeComponent = states("REQUESTED", "INITIATED", "DEPLOYABLE")  # type: ignore[method-assign]
    published(cloud)
    assert cloud.calls["DescribeComponent"] == 3


def test_a_component_that_greengrass_refuses_is_an_error(cloud: MemoryGreengrass) -> None:
    cloud._DescribeComponent = states("REQUESTED", "FAILED")  # type: ignore[method-assign]
    with pytest.raises(DeploymentError, match=r"DeviceOptions 1\.0\.0 is FAILED: bad recipe"):
        published(cloud)
    cloud.refusals["CreateComponentVersion"] = ["ValidationException"]
    with pytest.raises(DeploymentError, match="Greengrass refused the recipe of"):
        published(cloud)
