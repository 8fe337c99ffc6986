"""``fedgrass deploy devices --task``: add a task's component to a deployment, and configure its trainer.

The trainer's configuration names the component only. Module, class and folder come with the code, so a new
version that renames its class needs no other configuration, and the trainer need not be restarted for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from components.trainer.tasks.task_release import COMPONENT
from fedgrass.console.deploy.device_deployment import configurations
from fedgrass.console.options import FULL_NAMES, TRAINERS
from fedgrass.console.tasks.task_component import component_name
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError

_PREDICTOR = FULL_NAMES["predictor"]
# Options of a task whose code was put on the devices by hand, or that was disabled.
_REPLACED = ("enabled", "module", "path")


class TaskChanges(Struct, frozen=True, kw_only=True):
    """What tasks change in a deployment, in the terms of its other options."""

    components: Sequence[str]  # NAME or NAME=VERSION
    configuration: Mapping[str, Mapping[str, Any]] = {}  # to merge, by component
    reset: Sequence[str] = ()  # NAME:/POINTER
    users: Mapping[str, str] = {}  # by component: as which user it runs, unless one is given
    notes: Sequence[str] = ()


def deployed_tasks(tasks: Sequence[str], components: Sequence[str], old: Mapping[str, Any]) -> TaskChanges:
    """Return what deploying tasks changes.

    Args:
        tasks: ``NAME`` or ``NAME=VERSION`` of each task.
        components: full names that the operator gives too, each with or without a version.
        old: the latest deployment of the group, as GetDeployment returns it.

    Raises:
        SettingsError: the name of a task is invalid, or given twice.
    """
    names = _names(tasks)
    deployed: Mapping[str, Any] = old.get("components", {})
    given = {one.partition("=")[0] for one in components}
    trainers = [one for one in TRAINERS if one in given] or [one for one in TRAINERS if one in deployed]
    kept = [f"{one}={deployed[one]['componentVersion']}" for one in trainers if one not in given]
    added = [] if trainers else [TRAINERS[0]]
    users = [deployed.get(one, {}).get("runWith", {}).get("posixUser") for one in trainers]
    merged = configurations(deployed)
    predictors = [_PREDICTOR] if _PREDICTOR in {*given, *deployed} else []
    configuration: dict[str, dict[str, Any]] = {}
    reset: list[str] = []
    for consumer in [*(trainers or added), *predictors]:
        has = merged.get(consumer, {}).get("tasks", {})
        for name in names:
            if consumer in predictors and name not in has:
                continue  # it serves the tasks that it is configured for
            one = configuration.setdefault(consumer, {"tasks": {}})
            one["tasks"][name] = {COMPONENT: component_name(name)}
            options = has.get(name) if isinstance(has, Mapping) else None
            left = [key for key in _REPLACED if key in options] if isinstance(options, Mapping) else []
            reset += [f"{consumer}:/tasks/{name}/{key}" for key in left]
    kept += [
        f"{one}={deployed[one]['componentVersion']}"
        for one in predictors
        if one in configuration and one not in given
    ]
    interpreters = [merged.get(one, {}).get("python", "") for one in trainers]
    for name in names:
        if interpreter := next(filter(None, interpreters), ""):
            configuration[component_name(name)] = {"python": interpreter}
    user = next(filter(None, users), "")
    return TaskChanges(
        components=[*(f"{component_name(name)}{version}" for name, version in names.items()), *kept, *added],
        configuration=configuration,
        reset=reset,
        users={component_name(name): user for name in names} if user else {},
        notes=[f"{one.replace('=', ' stays at ')}; update it by --component {_short(one)}" for one in kept],
    )


def removed_tasks(tasks: Sequence[str], old: Mapping[str, Any], group: str) -> TaskChanges:
    """Return what removing tasks changes: their components, and their options in every configuration.

    Raises:
        SettingsError: a task is not deployed.
    """
    deployed: Mapping[str, Any] = old.get("components", {})
    merged = configurations(deployed)
    reset = []
    for name in _names(tasks):
        component = component_name(name)
        if component not in deployed:
            known = sorted(one for one in deployed if one.startswith(component_name("x")[:-1]))
            message = f"the task {name!r} is not deployed to {group!r}: {nearest(component, known)}"
            raise SettingsError(message)
        reset += [
            f"{consumer}:/tasks/{name}"
            for consumer in (*TRAINERS, _PREDICTOR)
            if name in merged.get(consumer, {}).get("tasks", {})
        ]
    return TaskChanges(components=[component_name(name) for name in _names(tasks)], reset=reset)


def _names(tasks: Sequence[str]) -> dict[str, str]:
    """Return the version of each task, as ``=1.2.0`` or empty."""
    found: dict[str, str] = {}
    for given in tasks:
        name, equals, version = given.partition("=")
        component_name(name)
        if name in found:
            message = f"--task names {name!r} twice: a device has one version of a task"
            raise SettingsError(message)
        found[name] = f"{equals}{version}"
    return found


def _short(component: str) -> str:
    name = component.partition("=")[0]
    return next(short for short, full in FULL_NAMES.items() if full == name)
