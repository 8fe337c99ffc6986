"""What ``fedgrass deploy devices`` is asked for becomes a plan: which versions, which configuration."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from fedgrass.console.deploy.component_configuration import (
    MOST_PARTS,
    check_configuration,
    document_parts,
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
from fedgrass.console.greengrass_cloud import GreengrassCloud
from fedgrass.console.options import TRAINERS, full_name, read_text
from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError

NUCLEI = ("aws.greengrass.Nucleus", "aws.greengrass.NucleusLite")


class Asked(Struct, frozen=True, kw_only=True):
    """The command line of ``fedgrass deploy devices``."""

    group: str
    components: Sequence[str] = ()  # NAME or NAME=VERSION
    configuration: Mapping[str, Mapping[str, Any]] = {}
    reset: Sequence[str] = ()  # NAME:/pointer
    checked: bool = True  # whether fedgrass's own components would take their configuration
    limits: Limits = Limits()
    rollout: Rollout = Rollout()
    remove: bool = False
    name: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """A revision that is ready to be made."""

    arguments: Mapping[str, Any]
    changes: Sequence[str]
    notes: Sequence[str]
    things: int
    current: str  # the id of the group's newest deployment; empty if there is none


def make_plan(cloud: GreengrassCloud, stack: Mapping[str, str], asked: Asked) -> Plan:
    """Return the revision that does what was asked; reads the cloud, changes nothing.

    Args:
        cloud: the account.
        stack: the outputs of the fleet's stack, whose names go into the components' configuration.
        asked: what the operator wants.

    Raises:
        SettingsError: there is no such group, component or version, or the configuration is of another
            component.
    """
    target = cloud.group(asked.group)
    old = cloud.newest_deployment(target)
    wanted = _removal(asked, old) if asked.remove else _addition(cloud, stack, asked)
    arguments = revision(target, asked.group, old, wanted)
    things, lite = cloud.things(asked.group), cloud.lite_devices(target)
    return Plan(
        arguments=arguments,
        changes=changes(old, arguments),
        notes=[*_checked(arguments["components"], wanted, asked, lite), *_notes(arguments, things, lite)],
        things=things,
        current=old.get("deploymentId", ""),
    )


def read_configuration(path: Path) -> dict[str, dict[str, Any]]:
    """Return what a YAML or JSON file says per component, by the components' full names.

    Raises:
        SettingsError: the file cannot be read, or holds something else.
    """
    text = read_text(path, named="--configuration")
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of 5,000 digits
        message = f"--configuration {path} is neither YAML nor JSON: {error}"
        raise SettingsError(message) from error
    if not isinstance(found, dict) or not all(isinstance(given, dict) for given in found.values()):
        message = (
            f"--configuration {path} holds {shown(found)}; it takes an object per component, such as"
            " {trainer: {heartbeat_seconds: 30}}"
        )
        raise SettingsError(message)
    return {full_name(str(name)): given for name, given in found.items()}


def _addition(cloud: GreengrassCloud, stack: Mapping[str, str], asked: Asked) -> Wanted:
    components = dict(_versioned(cloud, given) for given in asked.components)
    for name in asked.configuration:
        if name not in components:
            message = f"--configuration says of {name!r}, which is not deployed: {nearest(name, components)}"
            raise SettingsError(message)
    reset = _resets(asked.reset, components)
    own = {name: _of_stack(name, stack) for name in components if _of_stack(name, stack)}
    return Wanted(
        components=components,
        configuration={
            name: merge(own.get(name, {}), asked.configuration.get(name, {}))
            for name in components
            if name in own or name in asked.configuration
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
    return Wanted(removed=names, rollout=asked.rollout, name=asked.name)


def _versioned(cloud: GreengrassCloud, given: str) -> tuple[str, str]:
    """Return the full name and the version of ``NAME`` (its newest version) or ``NAME=VERSION``."""
    short, _, version = given.partition("=")
    name = full_name(short)
    published = cloud.versions(name)
    where = f"account {cloud.account.number}, region {cloud.account.region}"
    if not published:
        way_out = (
            f"`fedgrass deploy component {short}` publishes it" if name != short else "is that its name?"
        )
        message = f"there is no component {name!r} in {where}: {way_out}"
        raise SettingsError(message)
    if version and version not in published:
        message = f"there is no version {version!r} of {name!r} in {where}: {nearest(version, published)}"
        raise SettingsError(message)
    return name, version or published[0]


def _of_stack(name: str, stack: Mapping[str, str]) -> dict[str, Any]:
    """Return what the stack's outputs say in a component's configuration."""
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
            message = f"--reset is of {name!r}, which is not deployed: {nearest(name, components)}"
            raise SettingsError(message)
        found.setdefault(name, []).append(pointer)
    return found


def _checked(components: Mapping[str, Any], wanted: Wanted, asked: Asked, lite: int) -> Iterator[str]:
    """Check the configuration that devices would get; yield what is doubtful in it.

    Raises:
        SettingsError: a component would refuse it, a null is asked for, or Nucleus Lite cannot take it.
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
            f"the deployment has about {size} values, and Nucleus Lite, which {lite} of the group's devices"
            f" run, refuses one of more than {MOST_PARTS}: configure fewer tasks, options and attributes, or"
            " put devices with different tasks into different groups"
        )
        raise SettingsError(message)


_NULL_FAILS = (
    "which fails this and every later deployment on Nucleus Lite: a task is taken away by"
    " {{enabled: false}}, and `--reset COMPONENT:{pointer}` gives any other value its default"
)


def _notes(arguments: Mapping[str, Any], things: int, lite: int) -> list[str]:
    components = arguments["components"]
    # Nucleus Lite comes as a package of the operating system: no deployment updates it.
    if not components or any(name in components for name in NUCLEI) or (lite and lite >= things):
        return []
    note = (
        "the nucleus is not part of the deployment: Greengrass may update it when a component wants a newer"
        " one; --component aws.greengrass.Nucleus=VERSION keeps it"
    )
    if lite:
        note += f" (not for a group with Nucleus Lite, which {lite} of its {things} devices run)"
    return [note]
