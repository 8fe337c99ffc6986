"""Options of one device, from com.fedgrass.DeviceOptions to the trainer's configuration, over real IPC."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.runtime import configuration_watch
from components.runtime.component_errors import ConfigurationError, ConnectionLost, Unavailable
from components.runtime.configuration_watch import ConfigurationWatch
from components.runtime.device_options import COMPONENT as OPTIONS
from components.runtime.event_loop import EventLoop
from components.runtime.greengrass_ipc import GreengrassIpc
from fedgrass.console.device_options.options_component import (
    LARGEST_OPTIONS,
    RECIPE,
    configuration_of,
    size_of,
)
from greengrass_emulator.core.profiles import CLASSIC, LITE
from tests.emulator.local_core import COMPONENT, CoreInThread, core_in_thread, recipe, write_recipe

OF_GROUP = {"digits": {"share": 0, "shares": 10}, "cracks": {"module": "cracks:Cracks"}}


class Running:
    """A core with a component whose configuration has tasks, and that component's connection."""

    def __init__(self, core: CoreInThread, nucleus: GreengrassIpc, folder: Path) -> None:
        self.core, self.nucleus, self._folder = core, nucleus, folder

    def deploy(self, **options: dict[str, Any]) -> None:
        """Deploy the component of the options as to a thing."""
        self.core.run(self.core.core.deploy(RECIPE, self._folder, configuration_of(options)))

    def deploy_text(self, text: str) -> None:
        self.core.run(self.core.core.deploy(RECIPE, self._folder, {"options": text}))

    def deploy_to_group(self, **tasks: Any) -> None:
        """Change the tasks in the component's own configuration, as a deployment to the group does."""
        self.core.run(self.core.core.update_configuration(COMPONENT, {"tasks": tasks}))


@pytest.fixture(params=[CLASSIC, LITE], ids=lambda profile: profile.name)
def running(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    with core_in_thread(tmp_path / "core", request.param) as core:
        own = recipe("sleep 600", configuration={"fleet": "plant", "tasks": OF_GROUP})
        core.run(core.core.deploy(write_recipe(tmp_path, own), tmp_path))
        for name, value in core.core.component_environment(COMPONENT).items():
            monkeypatch.setenv(name, value)
        nucleus = GreengrassIpc.connect(lambda _: None)
        try:
            yield Running(core, nucleus, tmp_path)
        finally:
            nucleus.close()


def test_without_options_the_configuration_is_that_of_the_group(running: Running) -> None:
    assert running.nucleus.configuration()["tasks"] == OF_GROUP
    assert not running.nucleus.device_options_changed()
    running.deploy()
    assert running.nucleus.configuration()["tasks"] == OF_GROUP


def test_the_options_of_the_thing_win_in_whatever_order_deployments_arrive(running: Running) -> None:
    running.deploy(digits={"share": 3}, cracks={"folder": "/mnt/1"}, gone={"folder": "/old"})
    assert running.nucleus.device_options_changed()
    tasks = running.nucleus.configuration()["tasks"]
    assert tasks == {
        "digits": {"share": 3, "shares": 10},
        "cracks": {"module": "cracks:Cracks", "folder": "/mnt/1"},
    }
    running.deploy_to_group(digits={"share": 5, "shares": 20}, cracks={"folder": "/data"})
    assert running.nucleus.configuration()["tasks"] == {
        "digits": {"share": 3, "shares": 20},
        "cracks": {"module": "cracks:Cracks", "folder": "/mnt/1"},
    }


def test_options_that_are_removed_are_those_of_the_group_again(running: Running) -> None:
    running.deploy(digits={"share": 3, "shares": 7})
    running.deploy(digits={"shares": 8})
    assert running.nucleus.configuration()["tasks"]["digits"] == {"share": 0, "shares": 8}
    running.deploy()
    assert running.nucleus.configuration()["tasks"] == OF_GROUP


def test_options_that_are_not_such_are_reported_once(running: Running) -> None:
    for text in ("[", "[]", '{"digits": 3}'):
        running.deploy_text(text)
        with pytest.raises(
            ConfigurationError, match=f"the configuration of {OPTIONS} has options that are not"
        ):
            running.nucleus.configuration()
        assert not running.nucleus.device_options_changed()


def test_a_running_component_takes_changed_options_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration_watch, "OPTIONS_SECONDS", 0.2)
    loop, applied = EventLoop(), list[dict[str, Any]]()

    def apply(found: dict[str, Any]) -> None:
        applied.append(found["tasks"]["digits"])
        if len(applied) == 2:
            loop.stop(0)
        else:
            running.deploy(digits={"share": 4})

    running.nucleus.configuration()
    ConfigurationWatch(
        loop,
        running.nucleus,
        random.Random(1),  # noqa: S311 - jitter
        parse=dict,
        apply=apply,
        refuse=lambda _: None,
    ).start()
    running.deploy(digits={"share": 3})
    loop.call_later(30, lambda: loop.stop(1))
    assert loop.run() == 0, applied
    assert [one["share"] for one in applied] == [3, 4]


def test_a_nucleus_that_is_gone_is_not_taken_for_one_without_options(running: Running) -> None:
    running.deploy(digits={"share": 3})
    running.core.run(running.core.core.restart_ipc_daemon())
    with pytest.raises((ConnectionLost, Unavailable)):
        running.nucleus.configuration()


def test_the_largest_options_fit_the_store_of_both_nuclei(running: Running) -> None:
    note = ""
    while size_of({"cracks": {"note": note + '\\"é'}}) <= LARGEST_OPTIONS:
        note += '\\"é'
    running.deploy(cracks={"note": note})
    assert running.nucleus.configuration()["tasks"]["cracks"]["note"] == note
