"""What ``fedgrass deploy devices`` is asked for becomes a plan: which versions, which configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from fedgrass.console.component_names import full_name
from fedgrass.console.device_deployment import Limits, Rollout, Wanted, changes, merge, revision
from fedgrass.console.greengrass_cloud import GreengrassCloud
from fedgrass.console.input_files import read_text
from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError

NUCLEI = ("aws.greengrass.Nucleus", "aws.greengrass.NucleusLite")


class Asked(Struct, frozen=True, kw_only=True):
    """The command line of ``fedgrass deploy devices``."""

    group: str
    components: Sequence[str] = ()  # NAME or NAME=VERSION
    configuration: Mapping[str, Mapping[str, Any]] = {}
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
    return Plan(
        arguments=arguments,
        changes=changes(old, arguments),
        notes=_notes(arguments["components"]),
        things=cloud.things(asked.group),
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
    own = {name: _of_stack(name, stack) for name in components if _of_stack(name, stack)}
    return Wanted(
        components=components,
        configuration={
            name: merge(own.get(name, {}), asked.configuration.get(name, {}))
            for name in components
            if name in own or name in asked.configuration
        },
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
        full_name("trainer"): {"fleet": fleet},
        full_name("predictor"): {"fleet": fleet, "bucket": bucket},
    }
    return dict(known.get(name, {}))


def _notes(components: Mapping[str, Any]) -> list[str]:
    if not components or any(name in components for name in NUCLEI):
        return []
    note = (
        "the nucleus is not part of the deployment: Greengrass may update it when a component wants a newer"
        " one; --component aws.greengrass.Nucleus=VERSION keeps it"
    )
    return [note]
