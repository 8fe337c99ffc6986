"""Options of one thing reach its trainer while it runs, and the deployments of its group leave them alone."""

from pathlib import Path

import pytest

from components.trainer.tasks.noise import Noise
from fedgrass.console.device_options.options_component import RECIPE, configuration_of
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.testbed import TRAINER, Testbed, open_testbed, thing_names
from tests.e2e.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def examples(testbed: Testbed, run: str) -> dict[str, int | None]:
    """Run one round, and return the number of examples of each device."""
    settings = {"task": "noise", "rounds": 1, "evaluate_last": False, "deadline_seconds": 60}
    testbed.operator.start(run, parse_settings(settings), Noise().initial_weights(seed=1))
    wait_until(lambda: testbed.operator.run(run).state is RunState.SUCCEEDED, f"the end of {run}")
    (record,) = testbed.operator.rounds(testbed.operator.run(run))
    return {participant.device: participant.examples for participant in record.participants}


def log_of(testbed: Testbed, thing: str) -> str:
    (log,) = testbed.folder.glob(f"cores/{thing}/greengrass/logs/{TRAINER}.log")
    return log.read_text()


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_a_devices_own_options_reach_its_training(profile: str, tmp_path: Path) -> None:
    things = {
        name: {"tasks": {"noise": {"examples": 100}}, "heartbeat_seconds": 5} for name in thing_names(2)
    }
    with open_testbed(tmp_path / "testbed", things, profile=profile) as testbed:
        assert examples(testbed, "before") == {"device-1": 100, "device-2": 100}
        core = testbed.fleet.devices["device-1"].core
        own = configuration_of({"noise": {"examples": 7}})
        testbed.fleet.call(core.deploy(RECIPE, tmp_path, own))
        wait_until(lambda: "took up a changed configuration" in log_of(testbed, "device-1"), "the options")
        assert examples(testbed, "own") == {"device-1": 7, "device-2": 100}
        group = {"tasks": {"noise": {"examples": 50}}}  # as a revision of the group's deployment
        for device in testbed.fleet.devices.values():
            testbed.fleet.call(device.core.update_configuration(TRAINER, group))
        wait_until(lambda: "took up a changed configuration" in log_of(testbed, "device-2"), "the group's")
        assert examples(testbed, "after") == {"device-1": 7, "device-2": 50}
