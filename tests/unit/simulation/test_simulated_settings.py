"""The settings of a simulated run are those of a real one; what cannot be simulated is refused."""

from typing import Any

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.simulated_settings import run_name, settings_of
from fedgrass.simulation.simulation_spec import SimulationSpec


def spec(task: str = "digits", **settings: Any) -> SimulationSpec:
    return SimulationSpec(task=task, settings=settings)


def test_settings_of_the_run_and_of_its_training_are_told_apart() -> None:
    found = settings_of(spec(rounds=3, learning_rate=0.1, training={"epochs": 2}))
    assert (found.task, found.rounds) == ("digits", 3)
    assert found.training == {"learning_rate": 0.1, "epochs": 2}


def test_the_defaults_are_those_of_a_real_run() -> None:
    assert settings_of(spec()).deadline_seconds == 600


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"agregation": "fedadam"}, "there is no setting 'agregation': did you mean aggregation?"),
        ({"rounds": 0}, "rounds is 0"),
        ({"task": "mnist"}, "use --task instead"),
        ({"training": 5}, "training is 5; it takes an object of settings"),
        ({"mode": "server_app"}, "mode=server_app cannot be simulated"),
        ({"mode": "server_app", "rounds": 5}, "mode=server_app cannot be simulated"),
        ({"thing_group": "night"}, "thing_group=night cannot be simulated"),
        ({"allow_partial": True}, "allow_partial=true cannot be simulated"),
        ({"schedule": "by_hand"}, "schedule=by_hand cannot be simulated"),
    ],
)
def test_what_cannot_be_simulated_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        settings_of(SimulationSpec(settings=settings))


def test_a_setting_of_the_training_that_resembles_one_of_the_run_can_be_given_nevertheless() -> None:
    assert settings_of(spec(training={"agregation": "x"})).training == {"agregation": "x"}


def test_a_run_is_named_by_its_task_and_its_seed() -> None:
    assert run_name(SimulationSpec(task="air_quality=air:Quality", seed=7)) == "air-quality-simulated-7"
