"""Plan a deployment to devices: resolve names and versions, and check the configuration."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from msgspec.structs import replace

from fedgrass.console.deploy.component_configuration import (
    MOST_PARTS,
    check_configuration,
    default_configuration,
    document_parts,
    full_name,
    nulls,
)
from fedgrass.console.deploy.device_deployment import (
    Limits,
    Rollout,
    Wanted,
    changes,
    configurations,
    merge,
    revision,
)
from fedgrass.console.deploy.task_options import parse_options
from fedgrass.console.greengrass_cloud import GreengrassCloud
from fedgrass.console.options import TRAINERS, read_text
from fedgrass.console.tasks.task_component import PREFIX as TASK_PREFIX
from fedgrass.console.tasks.task_deployment import deployed_tasks, removed_tasks
from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError

_NUCLEI = ("aws.greengrass.Nucleus", "aws.greengrass.NucleusLite")
_NULL_FAILS = (
    "which fails this and every later deployment on Nucleus Lite: disable a task by {{enabled: false}}, and"
    " reset any other value to its default by `--reset COMPONENT:{pointer}`"
)


class Asked(Struct, frozen=True, kw_only=True):
    """The options of ``fedgrass deploy devices``."""

    group: str
    components: Sequence[str] = ()  # NAME or NAME=VERSION
    tasks: Sequence[str] = ()  # NAME or NAME=VERSION of tasks that were published
    configuration: Mapping[str, Mapping[str, Any]] = {}
    options: Sequence[str] = ()  # TASK.OPTION=VALUE, of the trainer
    reset: Sequence[str] = ()  # NAME:/POINTER
    checked: bool = True  # whether to check the configuration of fedgrass components
    limits: Limits = Limits()
    rollout: Rollout = Rollout()
    remove: bool = False
    name: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """A revision that is ready to deploy."""

    arguments: Mapping[str, Any]
    changes: Sequence[str]
    notes: Sequence[str]
    things: int
    current: str  # id of the group's latest deployment; empty if there is none


def make_plan(cloud: GreengrassCloud, stack: Mapping[str, str], asked: Asked) -> Plan:
    """Return the revision for the options; reads from AWS, changes nothing.

    Args:
        cloud: Greengrass in the account.
        stack: outputs of the fleet's stack, whose names are merged into the components' configuration.
        asked: the options.

    Raises:
        SettingsError: the group, a component or a version does not exist, a component is configured that is
            not deployed, or a component would refuse its configuration.
    """
    target = cloud.group(asked.group)
    old = cloud.latest_deployment(target)
    asked, users, kept = _with_tasks(asked, old)
    wanted = _removal(asked, old) if asked.remove else _addition(cloud, stack, _with_options(asked, old))
    wanted = replace(wanted, users=users)
    arguments = revision(target, asked.group, old, wanted)
    things, lite = cloud.things(asked.group), cloud.lite_devices(target)
    return Plan(
        arguments=arguments,
        changes=changes(old, arguments),
        notes=[
            *kept,
            *_checked(arguments["components"], wanted, asked, lite),
            *_notes(arguments, things, lite),
        ],
        things=things,
        current=old.get("deploymentId", ""),
    )


def _with_tasks(asked: Asked, old: Mapping[str, Any]) -> tuple[Asked, Mapping[str, str], Sequence[str]]:
    """Return the options with what their tasks change, the users of the tasks' components, and notes."""
    if not asked.tasks:
        return asked, {}, []
    if asked.remove:
        change = removed_tasks(asked.tasks, old, asked.group)
    else:
        given = [f"{full_name(name)}{equals}{version}" for name, equals, version in _split(asked.components)]
        change = deployed_tasks(asked.tasks, given, old)
    expanded = replace(
        asked,
        components=[*asked.components, *change.components],
        configuration=merge(change.configuration, asked.configuration),
        reset=[*change.reset, *asked.reset],
    )
    return expanded, change.users, change.notes


def _split(components: Sequence[str]) -> list[tuple[str, str, str]]:
    return [given.partition("=") for given in components]


def read_configuration(path: Path) -> dict[str, dict[str, Any]]:
    """Return the configuration in a YAML or JSON file, by full name of the component.

    Raises:
        SettingsError: the file cannot be read, or is not an object of objects.
    """
    text = read_text(path, named="--configuration")
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of 5,000 digits
        message = f"--configuration {path} is neither YAML nor JSON: {error}"
        raise SettingsError(message) from error
    if not isinstance(found, dict) or not all(isinstance(given, dict) for given in found.values()):
        message = (
            f"--configuration {path} contains {shown(found)}; it takes an object per component, such as"
            " {trainer: {heartbeat_seconds: 30}}"
        )
        raise SettingsError(message)
    return {full_name(str(name)): given for name, given in found.items()}


def _with_options(asked: Asked, old: Mapping[str, Any]) -> Asked:
    """Return the options of the command with those of tasks in the configuration of the trainer.

    Raises:
        SettingsError: no trainer is deployed, it has no such task, or an option is not TASK.OPTION=VALUE.
    """
    if not asked.options:
        return asked
    names = [full_name(given.partition("=")[0]) for given in asked.components]
    trainers = [name for name in names if name in TRAINERS]
    if not trainers:
        message = f"--option is for tasks of the trainer, and --component has only {', '.join(names)}"
        raise SettingsError(message)
    options = parse_options(asked.options)
    configuration = dict(asked.configuration)
    for trainer in trainers:
        given = configuration.get(trainer, {})
        values = merge(
            default_configuration(trainer), configurations(old.get("components", {})).get(trainer, {})
        )
        known = merge(values, given).get("tasks", {})
        for task in options:
            if task not in known:
                message = f"--option names the task {task!r}: {nearest(task, sorted(known))}"
                raise SettingsError(message)
        configuration[trainer] = merge(given, {"tasks": options})
    return replace(asked, configuration=configuration)


def _addition(cloud: GreengrassCloud, stack: Mapping[str, str], asked: Asked) -> Wanted:
    components = dict(_versioned(cloud, given) for given in asked.components)
    for name in asked.configuration:
        if name not in components:
            message = (
                f"--configuration names {name!r}, which is not in --component: {nearest(name, components)}"
            )
            raise SettingsError(message)
    reset = _resets(asked.reset, components)
    given = {name: _from_outputs(name, stack) for name in components if _from_outputs(name, stack)}
    return Wanted(
        components=components,
        configuration={
            name: merge(given.get(name, {}), asked.configuration.get(name, {}))
            for name in components
            if name in given or name in asked.configuration
        },
        reset=reset,
        limits=asked.limits,
        limited=[name for name in components if not name.startswith("aws.")],
        rollout=asked.rollout,
        name=asked.name,
        tags={"fedgrass:fleet": stack["Fleet"]},
    )


def _removal(asked: Asked, old: Mapping[str, Any]) -> Wanted:
    names = [full_name(given.partition("=")[0]) for given in asked.components]
    for name in names:
        if name not in old.get("components", {}):
            known = sorted(old.get("components", {}))
            message = f"{name!r} is not deployed to {asked.group!r}: {nearest(name, known)}"
            raise SettingsError(message)
    kept = {name: "" for name in old.get("components", {}) if name not in names}
    return Wanted(removed=names, reset=_resets(asked.reset, kept), rollout=asked.rollout, name=asked.name)


def _versioned(cloud: GreengrassCloud, given: str) -> tuple[str, str]:
    """Return the full name and the version of ``NAME`` (latest version) or ``NAME=VERSION``."""
    short, _, version = given.partition("=")
    name = full_name(short)
    published = cloud.versions(name)
    where = f"account {cloud.account.number}, region {cloud.account.region}"
    if not published:
        way_out = f"publish it by `fedgrass deploy component {short}`" if name != short else "check its name"
        if name.startswith(f"{TASK_PREFIX}flower."):
            way_out = "publish it by `fedgrass flower add APP_DIR`"
        elif name.startswith(TASK_PREFIX):
            way_out = "publish it by `fedgrass task publish MODULE:CLASS --version 1.0.0`"
        message = f"there is no component {name!r} in {where}: {way_out}"
        raise SettingsError(message)
    if version and version not in published:
        message = f"there is no version {version!r} of {name!r} in {where}: {nearest(version, published)}"
        raise SettingsError(message)
    return name, version or published[0]


def _from_outputs(name: str, stack: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration values of a component that come from the stack's outputs."""
    fleet, bucket = stack["Fleet"], stack["BucketName"]
    known = {
        **{trainer: {"fleet": fleet} for trainer in TRAINERS},
        full_name("predictor"): {"fleet": fleet, "bucket": bucket},
    }
    return dict(known.get(name, {}))


def _resets(given: Sequence[str], components: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the JSON pointers to reset, by component. Raises SettingsError."""
    found: dict[str, list[str]] = {}
    for one in given:
        short, colon, pointer = one.partition(":")
        if not colon or not pointer.startswith("/") or not all(pointer.split("/")[1:]):
            message = f"--reset is {shown(one)}; it takes COMPONENT:/KEY/..., such as trainer:/tasks/digits"
            raise SettingsError(message)
        name = full_name(short)
        if name not in components:
            message = f"--reset names {name!r}, which is not in --component: {nearest(name, components)}"
            raise SettingsError(message)
        found.setdefault(name, []).append(pointer)
    return found


def _checked(components: Mapping[str, Any], wanted: Wanted, asked: Asked, lite: int) -> Iterator[str]:
    """Check the configuration that devices would receive; yield warnings.

    Raises:
        SettingsError: a component would refuse it, it has a null, or it exceeds the capacity of Nucleus Lite.
    """
    merged = configurations(components)
    for name, values in merged.items():
        for pointer in nulls(values):
            message = (
                f"the configuration of {name} has null at {pointer}, {_NULL_FAILS.format(pointer=pointer)}"
            )
            if lite or any(True for _ in nulls(wanted.configuration.get(name, {}))):
                raise SettingsError(message)
            yield message
        if asked.checked and name in wanted.components:
            yield from check_configuration(name, values)
    if lite and (size := document_parts({**dict.fromkeys(components), **merged})) > MOST_PARTS:
        message = (
            f"the deployment has about {size} values, and Nucleus Lite, which {lite} devices of the group"
            f" run, refuses more than {MOST_PARTS}: configure fewer tasks, options and attributes, or use"
            " a group per task"
        )
        raise SettingsError(message)


def _notes(arguments: Mapping[str, Any], things: int, lite: int) -> list[str]:
    components = arguments["components"]
    # Nucleus Lite is a package of the operating system, which deployments do not update.
    if not components or any(name in components for name in _NUCLEI) or (lite and lite >= things):
        return []
    note = (
        "the nucleus is not part of the deployment, so Greengrass may update it when a component needs a"
        " newer one; pin it by --component aws.greengrass.Nucleus=VERSION"
    )
    if lite:
        note += f" (not in a group with Nucleus Lite, which {lite} of its {things} devices run)"
    return [note]
