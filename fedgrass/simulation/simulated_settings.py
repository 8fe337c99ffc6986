"""The run of a simulation: its settings, checked as for a real run, and its name."""

import difflib
from collections.abc import Mapping
from typing import Any

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.simulation.simulation_spec import SimulationSpec

_SIMILAR = 0.8  # of difflib: above that of any setting of the training to one of the run


def settings_of(spec: SimulationSpec) -> RunSettings:
    """Return the settings of the run of a simulation.

    Settings that are not those of a run are passed to the training, as in ``fedgrass demo``.

    Raises:
        SettingsError: a setting is invalid, or is misspelt, or cannot be simulated.
    """
    given = dict(spec.settings)
    if "task" in given:
        message = "the settings of a simulation have no task: use --task instead"
        raise SettingsError(message)
    training = given.pop("training", {})
    if not isinstance(training, Mapping):
        message = f"training is {training!r}; it takes an object of settings"
        raise SettingsError(message)
    known = {name: value for name, value in given.items() if name in RunSettings.__struct_fields__}
    others = {name: value for name, value in given.items() if name not in known}
    for name in others:
        _check_spelling(name)
    if known.get("mode") == "server_app":  # first: it allows no setting of the rounds, which a simulation has
        message = (
            "mode=server_app cannot be simulated: the rounds are opened by the ServerApp, in real time;"
            " `fedgrass demo --server-app` runs it over devices on this machine"
        )
        raise SettingsError(message)
    settings: dict[str, Any] = dict(known)
    if others or training:
        settings["training"] = {**training, **others}
    found = parse_settings({"task": task_name(spec), **settings})
    if found.schedule == "by_hand":
        message = (
            "schedule=by_hand cannot be simulated: no operator opens the next round; choose at_once, every or"
            " adaptive"
        )
        raise SettingsError(message)
    if found.allow_partial:
        message = (
            "allow_partial=true cannot be simulated: a training is computed as a whole, and one that would"
            " end after its deadline fails there; leave it out, and choose a later deadline_seconds"
        )
        raise SettingsError(message)
    if found.thing_group:
        message = (
            f"thing_group={found.thing_group} cannot be simulated: virtual devices are in no thing group;"
            " choose them by their attributes with the setting where"
        )
        raise SettingsError(message)
    return found


def _check_spelling(name: str) -> None:
    """Raise SettingsError for a setting of the training that resembles one of the run."""
    if close := difflib.get_close_matches(name, RunSettings.__struct_fields__, n=1, cutoff=_SIMILAR):
        message = (
            f"there is no setting {name!r}: did you mean {close[0]}? A setting of the training with that"
            f" name is given as --setting 'training={{\"{name}\": ...}}'"
        )
        raise SettingsError(message)


def task_name(spec: SimulationSpec) -> str:
    """Return the name of the task: of NAME=module:Class, the name."""
    return spec.task.partition("=")[0]


def run_name(spec: SimulationSpec) -> str:
    """Return the name of the run, which the task and the seed give: the same simulation has the same name.

    What a real run draws from its name, such as its cohorts, is the same for all settings with one seed.
    """
    task = task_name(spec).replace("_", "-").replace(":", "-")
    return f"{task}-simulated-{spec.seed}"
