"""The trainer's recipe matches its code."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from components.trainer import install
from components.trainer.install import MODULES
from components.trainer.trainer_configuration import FOR_OTHERS, Configuration, parse_configuration
from fedgrass.federation.topics import Kind, of_device
from greengrass_emulator.recipe.access_control import topic_matches
from tests.guards.recipes import PROJECT, braces_outside_variables, default_configuration, read_recipe

PUBLISHED = {Kind.COMPLETE, Kind.STATUS, Kind.HELLO, Kind.HEARTBEAT}
HEARD = {Kind.ANNOUNCE, Kind.HEARTBEAT}


@pytest.fixture
def recipe() -> dict[str, Any]:
    return read_recipe("Trainer")


@pytest.fixture
def defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    return default_configuration(recipe)


def allowed(defaults: dict[str, Any], operation: str) -> list[str]:
    policies = defaults["accessControl"]["aws.greengrass.ipc.mqttproxy"].values()
    return [
        resource
        for policy in policies
        if f"aws.greengrass#{operation}" in policy["operations"]
        for resource in policy["resources"]
    ]


@pytest.mark.parametrize(
    ("operation", "kinds"), [("PublishToIoTCore", PUBLISHED), ("SubscribeToIoTCore", HEARD)]
)
def test_access_control_allows_what_the_trainer_uses_and_nothing_else(
    defaults: dict[str, Any], operation: str, kinds: set[Kind]
) -> None:
    resources = allowed(defaults, operation)
    topics = {kind: of_device("plant", "press-1", kind) for kind in Kind}
    assert {
        kind for kind, topic in topics.items() if any(topic_matches(each, topic) for each in resources)
    } == kinds
    assert len(resources) == len(kinds)


def test_policies_have_unique_names_on_the_device(defaults: dict[str, Any]) -> None:
    names = list(defaults["accessControl"]["aws.greengrass.ipc.mqttproxy"])
    assert all(re.fullmatch(r"com\.fedgrass\.Trainer:mqttproxy:\d", name) for name in names)


def test_the_defaults_of_the_recipe_are_those_of_the_code(defaults: dict[str, Any]) -> None:
    spelled = {key: value for key, value in defaults.items() if key not in FOR_OTHERS | {"tasks"}}
    assert spelled == {
        key: msgspec.to_builtins(value)
        for key, value in msgspec.structs.asdict(Configuration()).items()
        if key != "tasks"
    }


def test_the_default_configuration_can_be_used(
    defaults: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert parse_configuration(defaults).tasks == {"digits": {"share": 0, "shares": 1}}
    assert caplog.records == []


def test_braces_stand_only_around_recipe_variables(recipe: dict[str, Any]) -> None:
    assert recipe["Manifests"]
    assert braces_outside_variables(recipe) == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "components.trainer.connection.mqtt_connection",
            ["awsiot", "awscrt", "stream_manager", "torch", "boto3", "numpy"],
        ),
        ("components.runtime.greengrass_ipc", ["paho", "torch", "boto3", "numpy"]),
    ],
)
def test_the_trainers_main_process_imports_what_its_host_needs_and_no_more(
    module: str, absent: list[str]
) -> None:
    program = f"""
import sys
import components.trainer.trainer_main, {module}
found = [name for name in {absent!r} if name in sys.modules]
sys.exit(", ".join(found) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_interpreter_is_checked_for_is_what_is_installed() -> None:
    folder = PROJECT / "components" / "trainer"
    lines = [
        line
        for name in ("requirements.txt", "requirements-torch.txt")
        for line in (folder / name).read_text().splitlines()
    ]
    packages = {line.partition("==")[0].replace("-", "_") for line in lines if "==" in line}
    names = {"awsiot": "awsiotsdk"}
    assert {names.get(module, module) for module in MODULES} <= packages


def test_the_steps_of_the_installation_end_before_the_nucleus_ends_them(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step may take what its predecessors left, so that the reason is reported and not cut off."""
    (timeout,) = {manifest["Lifecycle"]["install"]["Timeout"] for manifest in recipe["Manifests"]}
    given: list[float] = []
    monkeypatch.chdir(tmp_path)
    install.ENVIRONMENT.mkdir()
    monkeypatch.setattr(install, "_run", lambda _command, seconds, _failure: given.append(seconds))
    monkeypatch.setattr(install, "STARTED", time.monotonic() - 800)
    install.environment()
    making, *installing = given
    assert making < timeout
    assert len(installing) == 2  # PyTorch, and all others
    assert 800 + max(installing) < timeout
    assert timeout > install.STEP_SECONDS
