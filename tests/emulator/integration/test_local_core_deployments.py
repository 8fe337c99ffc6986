"""Deployments to a core: new versions, merged configurations, and rollback."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from greengrass_emulator.core.profiles import PROFILES, Profile
from greengrass_emulator.deployment.deployment_records import ComponentSource, Deployment
from greengrass_emulator.emulator_errors import (
    ArtifactError,
    ComponentStateError,
    CoreError,
    DependencyError,
    UnknownDeploymentError,
)
from greengrass_emulator.lifecycle.configuration_tree import KeyPath
from tests.emulator.core_device import SECONDS, Device, is_alive, on_device
from tests.emulator.local_core import COMPONENT, eventually, recipe, write_recipe

STAYS = "echo {configuration:/word}; sleep 1000"
FAILS = "echo broken {configuration:/word}; exit 3"
NEEDED = "com.example.Needed"


def version(number: str, run: str, **changes: Any) -> dict[str, object]:
    return recipe(run, ComponentVersion=number, **changes)


def settle_soon(device: Device) -> None:
    device.core.deployments.settle_seconds = 0.1


async def outcome(device: Device, deployment: Deployment) -> tuple[str, str]:
    ended = await device.core.deployments.wait_for(deployment.identifier, SECONDS)
    return str(ended.status), str(ended.outcome)


def test_a_deployment_succeeds_when_its_component_runs_or_has_finished(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        settle_soon(device)
        for run in ("sleep 1000", "true"):
            deployed = await device.deploy(recipe(run))
            assert await outcome(device, deployed) == ("SUCCEEDED", "SUCCESSFUL")

    on_device(tmp_path, scenario)


def test_a_new_version_that_fails_gives_way_to_the_one_before_with_its_configuration(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        settle_soon(device)
        await device.deploy(version("1.0.0", STAYS, configuration={"word": "old"}))
        await device.reach("RUNNING")
        await device.logged("old")

        failing = await device.deploy(version("2.0.0", FAILS), {"word": "new"})

        assert await outcome(device, failing) == ("FAILED", "FAILED_ROLLBACK_COMPLETE")
        assert "failed too often" in failing.reason
        assert "broken new" in failing.reason  # the end of the log
        await device.reach("RUNNING")
        assert device.core.component_states() == {COMPONENT: ("1.0.0", "RUNNING")}
        await asyncio.to_thread(eventually, lambda: device.log().endswith("old\n"))

    assert on_device(tmp_path, scenario).log() == "old\n" + "broken new\n" * 3 + "old\n"


def test_artifacts_are_restored_if_the_same_version_was_deployed_again(tmp_path: Path) -> None:
    content = recipe('cat "{artifacts:path}/words"; sleep 1000')
    content["Manifests"][0]["Artifacts"] = [{"URI": "s3://b/words"}]  # type: ignore[index]
    broken = recipe('cat "{artifacts:path}/words"; exit 1')
    broken["Manifests"][0]["Artifacts"] = [{"URI": "s3://b/words"}]  # type: ignore[index]

    async def scenario(device: Device) -> None:
        settle_soon(device)
        device.artifacts.mkdir()
        words = device.artifacts / "words"
        words.write_text("first\n")
        await device.deploy(content)
        await device.reach("RUNNING")
        await device.logged("first")
        words.write_text("second\n")

        assert (await outcome(device, await device.deploy(broken)))[1] == "FAILED_ROLLBACK_COMPLETE"

        await asyncio.to_thread(eventually, lambda: device.log().endswith("second\nfirst\n"))
        assert not list((device.root / "packages").rglob("*.before"))

    on_device(tmp_path, scenario)


def test_a_first_version_that_fails_stays_broken(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        failing = await device.deploy(recipe("exit 1"))
        assert await outcome(device, failing) == ("FAILED", "FAILED_ROLLBACK_NOT_REQUESTED")
        assert device.core.component_state(COMPONENT) == "BROKEN"

    on_device(tmp_path, scenario)


def test_a_missing_artifact_of_a_new_version_leaves_the_old_one_running(tmp_path: Path) -> None:
    content = version("2.0.0", "true")
    content["Manifests"][0]["Artifacts"] = [{"URI": "s3://b/absent.zip"}]  # type: ignore[index]

    async def scenario(device: Device) -> None:
        await device.deploy(version("1.0.0", "echo here; sleep 1000"))
        await device.reach("RUNNING")
        await device.logged("here")
        with pytest.raises(ArtifactError, match=r"absent\.zip"):
            await device.deploy(content)
        await device.reach("RUNNING")
        assert device.core.component_states() == {COMPONENT: ("1.0.0", "RUNNING")}
        assert [str(one.outcome) for one in device.core.deployments.records][1] == "FAILED_NO_STATE_CHANGE"

    on_device(tmp_path, scenario)


def test_a_merge_that_breaks_the_component_is_undone(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        settle_soon(device)
        await device.deploy(
            recipe("test {configuration:/word} = good && sleep 1000", configuration={"word": "good"})
        )
        await device.reach("RUNNING")

        merged = await device.core.update_configuration(COMPONENT, {"word": "bad"})

        assert await outcome(device, merged) == ("FAILED", "FAILED_ROLLBACK_COMPLETE")
        await device.reach("RUNNING")

    on_device(tmp_path, scenario)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_a_merge_repairs_a_broken_component(tmp_path: Path, profile: Profile) -> None:
    """Its run step is the same before and after the merge: a script reads what the merge repairs."""
    soon = dataclasses.replace(
        profile,
        configuration_restart_seconds=None if profile.configuration_restart_seconds is None else 0.1,
    )

    async def scenario(device: Device) -> None:
        settle_soon(device)
        repaired = tmp_path / "repaired"
        failing = await device.deploy(recipe(f"test -e {repaired} && sleep 1000"))
        assert (await outcome(device, failing))[0] == "FAILED"
        repaired.touch()

        merged = await device.core.update_configuration(COMPONENT, {"word": "good"})

        assert await outcome(device, merged) == ("SUCCEEDED", "SUCCESSFUL")
        assert device.core.component_state(COMPONENT) == "RUNNING"

    on_device(tmp_path, scenario, profile=soon)


def test_a_merge_that_the_run_step_does_not_read_restarts_nothing(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        settle_soon(device)
        await device.deploy(recipe("echo started; sleep 1000", configuration={"word": "old"}))
        await device.logged("started")
        merged = await device.core.update_configuration(COMPONENT, {"word": "new"})
        assert (await outcome(device, merged))[0] == "SUCCEEDED"

    assert on_device(tmp_path, scenario).log() == "started\n"


def test_a_merge_that_is_older_than_what_the_component_has_set_is_refused_in_words(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000", configuration={"word": "old"}))
        configuration = device.core._components.configuration_of(COMPONENT)
        assert configuration
        configuration.merge(["word"], "from the future", 1e12)
        with pytest.raises(CoreError, match="word was changed later"):
            await device.core.update_configuration(COMPONENT, {"word": "new"})

    on_device(tmp_path, scenario)


def test_a_deployment_that_never_began_does_not_bring_older_artifacts_back(tmp_path: Path) -> None:
    content = recipe('cat "{artifacts:path}/words"; sleep 1000')
    content["Manifests"][0]["Artifacts"] = [{"URI": "s3://b/words"}]  # type: ignore[index]

    async def scenario(device: Device) -> None:
        device.artifacts.mkdir()
        for words in ("first", "second"):
            (device.artifacts / "words").write_text(f"{words}\n")
            await device.deploy(content)
            await device.logged(words)
        device.core.faults.disk_full = True
        with pytest.raises(CoreError, match="No space left"):
            await device.deploy(content)
        await device.reach("RUNNING")  # it was not restarted
        process = device.core._components.get(COMPONENT).process
        assert process
        await process.restart()
        await asyncio.to_thread(eventually, lambda: device.log().endswith("second\nsecond\n"))

    on_device(tmp_path, scenario)


def test_listeners_to_a_configuration_are_notified_of_a_deployment_and_its_rollback(tmp_path: Path) -> None:
    heard: list[KeyPath] = []

    async def scenario(device: Device) -> None:
        settle_soon(device)
        await device.deploy(version("1.0.0", "sleep 1000", configuration={"word": "old"}))
        await device.reach("RUNNING")
        configuration = device.core._components.configuration_of(COMPONENT)
        assert configuration
        configuration.listen([], heard.append)

        failing = await device.deploy(version("2.0.0", "exit 1", configuration={"more": 1}), {"word": "new"})
        await outcome(device, failing)

        assert configuration.tree == {"word": "old"}

    on_device(tmp_path, scenario)
    assert sorted(heard) == [("more",), ("more",), ("word",), ("word",)]


def test_of_several_components_none_changes_if_one_cannot_be_deployed(tmp_path: Path) -> None:
    first = recipe("sleep 1000", name=NEEDED)
    second = recipe("{configuration:/absent}")

    async def scenario(device: Device) -> None:
        sources = [
            ComponentSource(write_recipe(device.folder, content), device.artifacts)
            for content in (first, second)
        ]
        with pytest.raises(CoreError, match="does not exist"):
            await device.core.deployments.deploy(sources)
        assert device.core.component_states() == {}

    on_device(tmp_path, scenario)


def test_a_component_is_removed_with_its_process_unless_another_needs_it(tmp_path: Path) -> None:
    needs = {NEEDED: {"VersionRequirement": "^1.0.0", "DependencyType": "HARD"}}

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000", name=NEEDED))
        await device.deploy(recipe("sleep 1000", ComponentDependencies=needs))
        with pytest.raises(DependencyError, match=f"{COMPONENT} needs it"):
            await device.core.deployments.deploy([], [NEEDED])
        await device.core.deployments.deploy([], [COMPONENT, NEEDED])
        assert device.core.component_states() == {}

    on_device(tmp_path, scenario)


def test_a_superseded_deployment_does_not_undo_its_successor(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        settle_soon(device)
        await device.deploy(version("1.0.0", "sleep 1000"))
        second = await device.deploy(version("2.0.0", "exit 1"))
        third = await device.deploy(version("3.0.0", "sleep 1000"))
        assert (await outcome(device, third))[0] == "SUCCEEDED"
        assert (await outcome(device, second))[0] == "CANCELED"
        assert device.core.component_states() == {COMPONENT: ("3.0.0", "RUNNING")}

    on_device(tmp_path, scenario)


def test_a_deployment_in_progress_or_unknown_is_reported_as_such(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        deployed = await device.deploy(recipe("sleep 1000"))
        with pytest.raises(ComponentStateError, match=r"is still in progress after 0\.01 s"):
            await device.core.deployments.wait_for(deployed.identifier, 0.01)
        with pytest.raises(UnknownDeploymentError, match="no deployment 'x'"):
            device.core.deployments.get("x")

    on_device(tmp_path, scenario)


def test_concurrent_restarts_leave_one_process(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("echo $$ >> pids; exec sleep 1000"))
        await device.reach("RUNNING")
        pids = device.root / "work" / COMPONENT / "pids"
        await asyncio.to_thread(eventually, pids.exists)
        process = device.core._components.get(COMPONENT).process
        assert process
        await asyncio.gather(*(process.restart() for _ in range(5)))
        await device.reach("RUNNING")
        assert len([one for one in pids.read_text().split() if is_alive(int(one))]) <= 1

    on_device(tmp_path, scenario)


def test_a_late_restart_does_not_revive_a_replaced_component(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(version("1.0.0", "echo $$ > pid; exec sleep 1000"))
        await device.reach("RUNNING")
        old = device.core._components.get(COMPONENT).process
        assert old
        await device.deploy(version("2.0.0", "sleep 1000"))
        await old.restart()
        assert old.state == "FINISHED"

    on_device(tmp_path, scenario)


def test_a_classic_recipe_refers_to_its_direct_dependencies(tmp_path: Path) -> None:
    needs = {NEEDED: {"VersionRequirement": "^1.0.0", "DependencyType": "HARD"}}
    run = f"echo {{{NEEDED}:configuration:/where}} {{{NEEDED}:artifacts:path}}"

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000", name=NEEDED, configuration={"where": "attic"}))
        await device.deploy(recipe(run, ComponentDependencies=needs))
        await device.reach("FINISHED")

    device = on_device(tmp_path, scenario)
    assert device.log() == f"attic {device.root}/packages/artifacts/{NEEDED}/1.0.0\n"


@pytest.mark.parametrize(("interpolate", "topic"), [(True, "device-1/say"), (False, "{iot:thingName}/say")])
def test_the_classic_setting_replaces_variables_in_a_configuration(
    tmp_path: Path, topic: str, *, interpolate: bool
) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("true", configuration={"topics": ["{iot:thingName}/say"]}))
        configuration = device.core._components.configuration_of(COMPONENT)
        assert configuration
        assert configuration.tree == {"topics": [topic]}

    on_device(tmp_path, scenario, interpolate_component_configuration=interpolate)
