"""``fedgrass deploy devices --thing`` and ``--options-table`` against an account in memory."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from components.runtime.device_options import COMPONENT
from fedgrass.console import stack
from fedgrass.console.device_options import options_component, options_rollout
from fedgrass.console.main import parse
from tests.fakes.memory_greengrass import MemoryGreengrass
from tests.unit.console.deploy.conftest import STACK

TRAINER = "com.fedgrass.Trainer"


def trainer(**configuration: Any) -> dict[str, Any]:
    """Return the component of a deployment with the trainer."""
    merged = json.dumps({"fleet": "plant", **configuration})
    return {TRAINER: {"componentVersion": "0.2.0", "configurationUpdate": {"merge": merged}}}


@pytest.fixture
def cloud() -> MemoryGreengrass:
    """An account with two presses, whose group has the trainer with the tasks digits and cracks."""
    account = MemoryGreengrass()
    account.versions = {TRAINER: ["0.2.0"], "com.example.Camera": ["1.0.0"]}
    tasks = {"digits": {"shares": 10}, "cracks": {"module": "cracks:Cracks", "folder": "/data"}}
    account.add_group("presses", {"press-1", "press-2"}, trainer(tasks=tasks))
    account.add_group("all", {"press-1", "press-2"})
    return account


@pytest.fixture
def run(cloud: MemoryGreengrass, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run ``fedgrass deploy devices`` against the account."""
    monkeypatch.setattr(stack, "client", cloud.client)
    monkeypatch.setattr(stack, "outputs", lambda _name: STACK)
    monkeypatch.setattr(options_component, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(options_rollout, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(options_rollout, "PER_MINUTE", 60_000_000)
    monkeypatch.setattr("fedgrass.console.device_options.options_command.PER_MINUTE", 60_000_000)

    def command(*words: str) -> None:
        parse(["deploy", "devices", *words])()

    return command


@pytest.fixture
def options(cloud: MemoryGreengrass) -> Callable[[str], Any]:
    """Return a function that returns the options in a thing's latest deployment."""

    def options_of(thing: str) -> Any:
        component = cloud.deployed(cloud.thing_arn(thing))[COMPONENT]
        return json.loads(json.loads(component["configurationUpdate"]["merge"])["options"])

    return options_of
