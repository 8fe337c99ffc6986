"""The lifecycle of components on a core: real processes, real archives, real HTTP."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import CLASSIC, LITE
from greengrass_emulator.emulator_errors import (
    ArtifactError,
    ComponentStateError,
    CoreError,
    DependencyError,
    InvalidAccessControlError,
    IotConnectionError,
    RecipeError,
    UnknownComponentError,
)
from greengrass_emulator.lifecycle.guarded_script import GuardedScript, Script
from greengrass_emulator.temporary_folder import LOCK, PREFIX, OwnedFolder
from tests.emulator.core_device import SECONDS, Device, is_alive, on_device
from tests.emulator.local_core import COMPONENT, eventually, recipe, settings

VERSION = "1.0.0"
S3 = "s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION"
CREDENTIALS = {
    "AccessKeyId": "AKIA",
    "SecretAccessKey": "secret",
    "Token": "session",
    "Expiration": "2030-01-01T00:00:00Z",
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A built component: an archive with a small program."""
    folder = tmp_path / "artifacts" / COMPONENT / VERSION
    folder.mkdir(parents=True)
    file = folder / "probe.zip"
    with zipfile.ZipFile(file, "w") as content:
        content.writestr(
            "probe/__main__.py",
            textwrap.dedent("""
            import json, os, pathlib
            print(json.dumps({**os.environ, "cwd": os.getcwd(), "code": str(pathlib.Path(__file__).parent)}))
        """),
        )
    return file


def with_archive(content: dict[str, Any], unarchive: str = "ZIP") -> dict[str, Any]:
    content["Manifests"][0]["Artifacts"] = [{"URI": f"{S3}/probe.zip", "Unarchive": unarchive}]
    return content


@pytest.mark.usefixtures("archive")
def test_a_component_runs_from_its_recipe_with_greengrass_s_surroundings(tmp_path: Path) -> None:
    run = f"{sys.executable} {{artifacts:decompressedPath}}/probe/probe --epochs {{configuration:/epochs}}"
    content = with_archive(
        recipe(
            run,
            configuration={"epochs": 3},
            lifecycle={
                "Setenv": {"WHERE": "{iot:thingName}", "LEVEL": 2},
                "install": "echo installed > marker",
            },
            ComponentDependencies={
                "aws.greengrass.TokenExchangeService": {
                    "VersionRequirement": "^2.0.0",
                    "DependencyType": "HARD",
                },
                "aws.greengrass.StreamManager": {"VersionRequirement": "^2.0.0", "DependencyType": "HARD"},
            },
        )
    )

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("FINISHED")

    device = on_device(tmp_path, scenario, environment={"STREAM_MANAGER_SERVER_PORT": "8089"})

    seen = json.loads(device.log())
    root = device.root
    assert seen["cwd"] == str(root / "work" / COMPONENT)
    assert seen["code"] == str(root / "packages/artifacts-unarchived" / COMPONENT / VERSION / "probe/probe")
    assert (root / "packages/artifacts" / COMPONENT / VERSION / "probe.zip").is_file()
    assert (root / "work" / COMPONENT / "marker").read_text() == "installed\n"
    assert seen["SVCUID"] == seen["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    assert seen["AWS_CONTAINER_CREDENTIALS_FULL_URI"].startswith("http://127.0.0.1:")
    expected = {
        "AWS_IOT_THING_NAME": "device-1",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "GGC_VERSION": CLASSIC.nucleus_version,
        "GG_ROOT_CA_PATH": str(root / "ca.pem"),
        "WHERE": "device-1",
        "LEVEL": "2",
        "STREAM_MANAGER_SERVER_PORT": "8089",
    }
    assert {name: seen[name] for name in expected} == expected


def test_the_operator_s_own_keys_are_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("env"))
        await device.reach("FINISHED")

    log = on_device(tmp_path, scenario).log()

    assert "mine" not in log
    assert "AWS_SHARED_CREDENTIALS_FILE" not in log  # the files in the component user's home apply
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in log


def test_exit_code_0_is_not_restarted(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("echo ran"))
        await device.reach("FINISHED")
        with pytest.raises(ComponentStateError):
            await device.core.wait_for(COMPONENT, "STARTING", 1.5)

    assert on_device(tmp_path, scenario).log() == "ran\n"


def test_a_failing_component_is_restarted_with_the_same_token_and_given_up_at_the_third_failure(
    tmp_path: Path,
) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("echo token $SVCUID; exit 3", lifecycle={"install": "echo installed"}))
        await device.reach("ERRORED")
        with pytest.raises(ComponentStateError, match=r"failed too often.*(?s:.*)token"):
            await device.core.wait_for(COMPONENT, "FINISHED", SECONDS)
        assert device.core.component_state(COMPONENT) == "BROKEN"

    lines = on_device(tmp_path, scenario).log().splitlines()

    assert lines[0] == "installed"
    assert len(lines) == 4
    assert len(set(lines[1:])) == 1


def test_a_failing_install_keeps_the_component_from_running(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("echo ran", lifecycle={"install": "echo trying; exit 1"}))
        await device.reach("BROKEN")

    assert on_device(tmp_path, scenario).log() == "trying\n" * 3


def test_an_install_that_takes_too_long_is_stopped_with_its_children(tmp_path: Path) -> None:
    install = {"Script": "sleep 1000 & echo $! > pid; wait", "Timeout": 1}

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("true", lifecycle={"install": install}))
        await device.reach("ERRORED")
        pid = int((device.root / "work" / COMPONENT / "pid").read_text())
        await asyncio.to_thread(eventually, lambda: not is_alive(pid))

    device = on_device(tmp_path, scenario)
    assert "install took longer than its Timeout of 1 s" in (device.root / "logs/greengrass.log").read_text()


def test_stop_leaves_no_process_no_socket_and_no_port(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 1000 & echo $$ $! > pids; while true; do sleep 1000; done"

    async def scenario(device: Device) -> None:
        await device.deploy(recipe(script, lifecycle={"shutdown": "echo shut down"}))
        await device.reach("RUNNING")
        pids = device.root / "work" / COMPONENT / "pids"
        await asyncio.to_thread(eventually, lambda: pids.exists() and len(pids.read_text().split()) == 2)

    device = on_device(tmp_path, scenario)

    pids = [int(pid) for pid in (device.root / "work" / COMPONENT / "pids").read_text().split()]
    assert not any(is_alive(pid) for pid in pids)
    assert not list(device.root.rglob("*.socket"))
    assert device.log().endswith("shut down\n")
    assert device.core.component_state(COMPONENT) == "FINISHED"


def test_what_a_component_leaves_running_ends_with_it(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000 & echo $!"))
        await device.reach("FINISHED")
        pid = int(device.log())
        await asyncio.to_thread(eventually, lambda: not is_alive(pid))

    on_device(tmp_path, scenario)


def test_a_script_stopped_at_its_first_moment_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    script = Script("sleep 1000 & sleep 1000; true", {"PATH": os.environ["PATH"]}, tmp_path, tmp_path / "log")

    async def run() -> list[int]:
        groups = []
        for number in range(60):
            running = await GuardedScript.start(script)
            groups.append(running.pid)
            await asyncio.sleep(number % 6 * 0.0005)
            async with asyncio.timeout(SECONDS):
                assert await running.stop(seconds=60) == -signal.SIGTERM
        return groups

    groups = asyncio.run(run())
    eventually(lambda: not any(is_alive(member) for group in groups for member in members_of(group)))


def members_of(group: int) -> list[int]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[2]) == group:
                members.append(int(stat.parent.name))
    return members


HOST = """
import asyncio, sys
from pathlib import Path
from tests.emulator.integration.test_local_core_lifecycle import Device
from tests.emulator.local_core import recipe

async def main():
    device = Device(Path(sys.argv[1]))
    await device.core.start()
    await device.deploy(recipe("trap '' TERM; sleep 1000 & echo $$ $! > pids; wait; sleep 1000"))
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_components_die_with_a_core_that_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "core" / "work" / COMPONENT / "pids"
    with subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path)], cwd=Path(__file__).parents[3]) as host:
        try:
            eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2, 30)
            processes = [int(pid) for pid in pids.read_text().split()]
            assert all(is_alive(pid) for pid in processes)
        finally:
            host.send_signal(signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in processes))


def test_configuration_is_merged_over_the_default_and_read_in_the_run_step(tmp_path: Path) -> None:
    content = recipe("echo {configuration:/a/x} {configuration:/a/y}", configuration={"a": {"x": 1, "y": 2}})

    async def scenario(device: Device) -> None:
        await device.deploy(content, {"a": {"y": 5}})
        await device.reach("FINISHED")

    assert on_device(tmp_path, scenario).log() == "1 5\n"


def test_an_update_restarts_a_component_only_if_its_run_step_reads_what_changed(tmp_path: Path) -> None:
    run = "echo epochs {configuration:/training/epochs}; sleep 1000"
    content = recipe(run, configuration={"training": {"epochs": 3}, "other": 1})

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.logged("epochs 3")
        await device.core.update_configuration(COMPONENT, {"other": 2})
        await device.core.update_configuration(COMPONENT, {"training": {"epochs": 4}})
        await device.logged("epochs 4")
        with pytest.raises(RecipeError, match="does not exist"):
            await device.core.update_configuration(COMPONENT, {"training": "none"})

    assert on_device(tmp_path, scenario).log() == "epochs 3\nepochs 4\n"


def test_a_core_that_starts_again_installs_and_runs_its_components_with_new_tokens(tmp_path: Path) -> None:
    content = recipe("echo $SVCUID", lifecycle={"install": "echo installed"})

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("FINISHED")
        await device.core.stop()
        await device.core.start()
        await device.reach("FINISHED")

    first, token, second, other_token = on_device(tmp_path, scenario).log().splitlines()
    assert (first, second) == ("installed", "installed")
    assert token != other_token


def test_a_new_deployment_replaces_the_component_and_keeps_its_configuration(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000", configuration={"a": 1}), {"a": 2})
        await device.reach("RUNNING")
        await device.deploy(
            recipe("echo {configuration:/a} {configuration:/b}", configuration={"a": 1, "b": 1})
        )
        await device.reach("FINISHED")

    assert on_device(tmp_path, scenario).log() == "2 1\n"


def test_a_path_too_long_for_a_socket_gets_a_short_one_that_is_removed(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 110)
    sockets: list[Path] = []

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("true"))
        name = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
        sockets.append(Path(device.core.component_environment(COMPONENT)[name]))
        assert sockets[0].is_socket()

    deep.mkdir()
    on_device(deep, scenario)

    assert not sockets[0].parent.exists()


def test_the_short_path_of_a_core_that_was_killed_is_removed_by_the_next_that_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 110)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))  # where abandoned folders are looked for
    top = Path("/tmp")  # noqa: S108 - 0700 below it
    left, others = Path(tempfile.mkdtemp(prefix=PREFIX, dir=top)), OwnedFolder(top)
    (left / LOCK).touch()

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("true"))

    try:
        on_device(deep, scenario)
        assert not left.exists()
        assert others.path.exists()
    finally:
        others.remove()


# Recipes of the classic nucleus only


def test_steps_in_capitals_run_on_classic_as_gdk_s_own_template_writes_them(tmp_path: Path) -> None:
    content = recipe("")
    content["Manifests"] = [{"Lifecycle": {"Install": "echo installed", "Run": "echo ran"}}]

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("FINISHED")

    assert on_device(tmp_path, scenario).log() == "installed\nran\n"
    runtime = {"Manifests": [{"Platform": {"runtime": "*"}, "Lifecycle": {"Run": "echo ran"}}]}
    (tmp_path / "lite").mkdir()
    message = refusal_of(tmp_path / "lite", {**content, **runtime}, RecipeError, profile=LITE)
    assert "spell it `run`" in message


def test_what_a_startup_step_leaves_running_is_the_component_until_it_is_stopped(tmp_path: Path) -> None:
    content = recipe("")
    startup = "echo starting; sleep 1000 & echo $! > child"
    content["Manifests"] = [{"Lifecycle": {"bootstrap": "echo booted; exit 100", "startup": startup}}]
    children: list[int] = []

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("RUNNING")
        children.append(int((device.root / "work" / COMPONENT / "child").read_text()))
        assert is_alive(children[0])

    assert on_device(tmp_path, scenario).log() == "booted\nstarting\n"
    assert not is_alive(children[0])


def test_a_recover_step_runs_after_each_failure_but_the_last(tmp_path: Path) -> None:
    content = recipe("")
    content["Manifests"] = [{"Lifecycle": {"startup": "echo failing; exit 4", "recover": "echo recovering"}}]

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("BROKEN")

    assert on_device(tmp_path, scenario).log().split() == ["failing", "recovering"] * 2 + ["failing"]


# The token exchange service


def ask(url: str, **headers: str) -> tuple[int, dict[str, Any]]:
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the core's own http address
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - as above
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


def with_token_exchange() -> dict[str, object]:
    dependency = {"aws.greengrass.TokenExchangeService": {"VersionRequirement": "^2.0.0"}}
    return recipe("sleep 1000", ComponentDependencies=dependency)


def test_credentials_are_for_components_only(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(with_token_exchange())
        environment = device.core.component_environment(COMPONENT)
        url, token = environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"], environment["SVCUID"]

        assert await asyncio.to_thread(ask, url, Authorization=token) == (200, CREDENTIALS)
        assert (await asyncio.to_thread(ask, url, Authorization="wrong"))[0] == 403
        assert (await asyncio.to_thread(ask, url))[0] == 403
        assert (await asyncio.to_thread(ask, url + "other", Authorization=token))[0] == 404

    on_device(tmp_path, scenario, credentials=lambda: {**CREDENTIALS, "extra": "not for components"})


def test_boto3_takes_its_credentials_from_the_token_exchange_service(tmp_path: Path) -> None:
    program = "import boto3; c = boto3.Session().get_credentials(); print(c.method, c.access_key, c.token)"
    content = with_token_exchange()
    content["Manifests"][0]["Lifecycle"]["run"] = f'{sys.executable} -c "{program}"'  # type: ignore[index]

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("FINISHED")

    assert (
        on_device(tmp_path, scenario, credentials=lambda: CREDENTIALS).log()
        == "container-role AKIA session\n"
    )


def test_credentials_that_cannot_be_had_are_an_error_of_the_service(tmp_path: Path) -> None:
    def fail() -> Mapping[str, str]:
        message = "the role alias is gone"
        raise RuntimeError(message)

    async def scenario(device: Device) -> None:
        await device.deploy(with_token_exchange())
        environment = device.core.component_environment(COMPONENT)
        answer = await asyncio.to_thread(
            ask, environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"], Authorization=environment["SVCUID"]
        )
        assert answer == (500, {"message": "no credentials: the role alias is gone"})

    on_device(tmp_path, scenario, credentials=fail)


# Refusals


def refusal_of(folder: Path, content: Mapping[str, object], error: type[CoreError], **changes: Any) -> str:
    messages: list[str] = []

    async def scenario(device: Device) -> None:
        with pytest.raises(error) as caught:
            await device.deploy(content)
        messages.append(str(caught.value))

    on_device(folder, scenario, **changes)
    return messages[0]


def test_an_unknown_hard_dependency_is_refused_and_a_soft_one_is_not(tmp_path: Path) -> None:
    hard = {"com.example.Base": {"VersionRequirement": "^1.0.0"}}
    soft = {"com.example.Base": {"VersionRequirement": "^1.0.0", "DependencyType": "SOFT"}}

    message = refusal_of(tmp_path, recipe("true", ComponentDependencies=hard), DependencyError)
    assert f"{COMPONENT} needs com.example.Base, which is not deployed on device-1" in message

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("true", name="com.example.Base"))
        await device.deploy(recipe("true", ComponentDependencies=hard))
        await device.deploy(recipe("true", name="com.example.Soft", ComponentDependencies=soft))

    on_device(tmp_path, scenario)


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, with_archive(recipe("true")), ArtifactError)
    assert f"{COMPONENT}/{VERSION}/probe.zip nor " in message


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path, archive: Path, name: str) -> None:
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr(name, "x")

    assert "leads out of its folder" in refusal_of(tmp_path, with_archive(recipe("true")), ArtifactError)
    assert not list(tmp_path.rglob("outside"))


def test_an_archive_that_is_none_is_refused(tmp_path: Path, archive: Path) -> None:
    archive.write_bytes(b"PK not really")

    refusal = refusal_of(tmp_path, with_archive(recipe("true")), ArtifactError)
    assert "cannot be unpacked as a ZIP archive" in refusal


def test_an_unknown_variable_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000"))
        await device.reach("RUNNING")
        with pytest.raises(RecipeError, match="does not exist"):
            await device.deploy(recipe("echo {configuration:/absent}"))
        assert device.core.component_state(COMPONENT) == "RUNNING"

    on_device(tmp_path, scenario)


def test_a_policy_id_that_another_component_has_is_refused(tmp_path: Path) -> None:
    policy = {"operations": ["*"], "resources": ["*"]}
    configuration = {"accessControl": {"aws.greengrass.ipc.mqttproxy": {"same:1": policy}}}

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("true", name="com.example.First", configuration=configuration))
        with pytest.raises(RecipeError, match=r"policy id same:1 is already used by com.example.First"):
            await device.deploy(recipe("true", configuration=configuration))
        with pytest.raises(InvalidAccessControlError, match="accessControl x must be a map"):
            await device.core.update_configuration("com.example.First", {"accessControl": {"x": 1}})

    on_device(tmp_path, scenario)


def test_a_recipe_without_a_runtime_field_is_refused_by_lite_only(tmp_path: Path) -> None:
    content: dict[str, Any] = recipe("true")
    del content["Manifests"][0]["Platform"]["runtime"]

    assert "runtime: '*'" in refusal_of(tmp_path, content, RecipeError, profile=LITE)


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("true"))
        with pytest.raises(
            UnknownComponentError, match=f"no component Absent on device-1: there are {COMPONENT}"
        ):
            device.core.component_state("Absent")
        with pytest.raises(ComponentStateError, match="there is no state 'HAPPY'"):
            await device.core.wait_for(COMPONENT, "HAPPY", 1)

    on_device(tmp_path, scenario)


def test_an_unreachable_iot_core_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    core = GreengrassCore(settings(tmp_path / "core", LITE))

    async def start() -> None:
        with pytest.raises(
            IotConnectionError, match=r"cannot connect to IoT Core at 127.0.0.1:1 as device-1"
        ):
            await core.start()

    asyncio.run(start())
    assert not list(tmp_path.rglob("*.socket"))


def test_twenty_four_cores_share_one_event_loop(tmp_path: Path) -> None:
    devices = [Device(tmp_path / str(number), thing_name=f"device-{number}") for number in range(24)]

    async def one(device: Device) -> None:
        device.folder.mkdir()
        await device.core.start()
        await device.deploy(recipe("echo $AWS_IOT_THING_NAME; sleep 1000"))
        await device.reach("RUNNING")
        await asyncio.to_thread(eventually, device.log)

    async def all_of_them() -> None:
        try:
            await asyncio.gather(*map(one, devices))
        finally:
            await asyncio.gather(*(device.core.stop() for device in devices))

    asyncio.run(all_of_them())

    assert [device.log() for device in devices] == [f"device-{number}\n" for number in range(24)]
