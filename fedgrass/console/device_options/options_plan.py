"""Plan the deployments that give things their own options; reads from AWS, changes nothing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from components.runtime.device_options import COMPONENT
from fedgrass.console.deploy.component_configuration import MOST_PARTS, check_configuration, document_parts
from fedgrass.console.deploy.device_deployment import (
    Rollout,
    Wanted,
    changes,
    configurations,
    merge,
    revision,
)
from fedgrass.console.deploy.task_options import check_option, is_checked, typed_value
from fedgrass.console.device_options.options_component import (
    LARGEST_OPTIONS,
    VERSION,
    configuration_of,
    options_in,
    size_of,
)
from fedgrass.console.device_options.options_table import Row, WrongRows
from fedgrass.console.device_options.thing_groups import FoundGroups, find_groups
from fedgrass.console.greengrass_cloud import GreengrassCloud
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError

_FEW = 20  # things whose deployments are requested one by one, not from the list of the whole account


class Asked(Struct, frozen=True, kw_only=True):
    """What the operator asks for."""

    source: str  # where the rows come from, for errors
    rows: Sequence[Row] = ()
    cleared: Sequence[str] = ()  # things whose options are all removed
    rollout: Rollout = Rollout()
    name: str = ""
    checked: bool = True  # whether to check the names and values of options
    again: bool = False  # whether to deploy again to things on which the same deployment failed


class Revision(Struct, frozen=True, kw_only=True):
    """A deployment that is ready to create."""

    name: str  # of the thing or the group
    arguments: Mapping[str, Any]
    changes: Sequence[str]


class Plan(Struct, frozen=True, kw_only=True):
    """The deployments to create, in this order: groups, then things."""

    publishes: bool  # whether the component must be published first
    groups: Sequence[Revision]
    things: Sequence[Revision]
    unchanged: int  # things for which nothing changes
    notes: Sequence[str]


def make_plan(cloud: GreengrassCloud, stack: Mapping[str, str], asked: Asked) -> Plan:
    """Return the deployments that give things their options.

    Args:
        cloud: Greengrass in the account.
        stack: outputs of the fleet's stack.
        asked: the rows and the options of the roll-out.

    Raises:
        WrongRows: a thing does not exist or has no trainer, or the trainer would refuse its configuration.
        SettingsError: the present options of a thing cannot be read.
    """
    things = [*dict.fromkeys([*(row.thing for row in asked.rows), *asked.cleared])]
    found = find_groups(cloud, things)
    problems = {**found.problems, **_confused_names(found, things)}
    wrong = [f"{place}: {problems[thing]}" for thing, place in _places(asked) if thing in problems]
    if wrong:
        raise WrongRows(asked.source, wrong)
    before = _deployments(cloud, things)
    options = _new_options(asked, found, before)
    revisions = [
        _of_thing(cloud.account.thing(thing), thing, before.get(thing, {}), options[thing], stack, asked)
        for thing in things
    ]
    changed = [
        one
        for one in revisions
        if one.changes or (asked.again and cloud.progress_of(before[one.name]).failed)
    ]
    versions = cloud.versions(COMPONENT)
    return Plan(
        publishes=bool(changed) and VERSION not in versions,
        groups=[*_of_groups(found, stack)] if changed else [],
        things=changed,
        unchanged=len(revisions) - len(changed),
        notes=[*_notes(found, options)],
    )


def _confused_names(found: FoundGroups, things: Sequence[str]) -> dict[str, str]:
    """Return a reason for each thing with the name of its group, where Nucleus Lite takes both for one."""
    return {
        group.name: f"its group is {group.name!r} too, and Nucleus Lite would confuse their deployments"
        for group in found.groups
        if group.lite and group.name in group.members and group.name in things
    }


def _places(asked: Asked) -> Iterator[tuple[str, str]]:
    """Yield (thing, place) of the first row of each thing."""
    first: dict[str, str] = {}
    for row in asked.rows:
        first.setdefault(row.thing, row.place)
    for thing in asked.cleared:
        first.setdefault(thing, f"--thing {thing}")
    yield from first.items()


def _deployments(cloud: GreengrassCloud, things: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the latest deployment to each thing that has one."""
    targets = {cloud.account.thing(thing): thing for thing in things}
    if len(targets) <= _FEW:
        found = {thing: cloud.latest_deployment(target) for target, thing in targets.items()}
        return {thing: deployment for thing, deployment in found.items() if deployment}
    return {
        targets[summary["targetArn"]]: cloud.deployment(summary["deploymentId"])
        for summary in cloud.latest_deployments()
        if summary["targetArn"] in targets
    }


def _new_options(
    asked: Asked, found: FoundGroups, before: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the new options of each thing, by task: the present ones, changed by the rows.

    Raises:
        WrongRows: a task is unknown, an option is unknown or has a value of the wrong type.
    """
    options: dict[str, dict[str, dict[str, Any]]] = {}
    wrong: list[str] = []
    places: dict[str, str] = dict(_places(asked))
    known = _KnownTasks(found, checked=asked.checked)
    for thing in asked.cleared:
        options[thing] = {}
    refused: set[str] = set()
    for row in asked.rows:
        if row.thing not in options:
            options[row.thing] = options_in(row.thing, before.get(row.thing, {}))
        if row.text is None:
            options[row.thing].get(row.task, {}).pop(row.option, None)
        elif reason := known.wrong(row, options[row.thing].setdefault(row.task, {})):
            wrong.append(f"{row.place}: {reason}")
            refused.add(row.thing)
    wrong += [
        f"{places[thing]}: {thing}: {reason}"
        for thing in options
        if thing not in refused and (reason := known.wrong_together(thing, options[thing]))
    ]
    if wrong:
        raise WrongRows(asked.source, wrong)
    return options


class _KnownTasks:
    """Checks options against the tasks of things; things with equal groups and options are checked once."""

    def __init__(self, found: FoundGroups, *, checked: bool) -> None:
        self._found = found
        self._checked = checked
        self._values: dict[tuple[str, ...], Mapping[str, Any]] = {}
        self._answers: dict[tuple[tuple[str, ...], str], str] = {}

    def wrong(self, row: Row, into: dict[str, Any]) -> str:
        """Put a row's value into its thing's options of the task; return why it cannot be used, or ``""``."""
        values = self._of(row.thing)
        tasks = values.get("tasks", {})
        given = tasks.get(row.task)
        if not isinstance(given, Mapping):
            return f"{row.thing} has no task {row.task!r}: {nearest(row.task, sorted(tasks))}"
        into[row.option] = typed_value(row.task, row.option, row.text or "")
        if not self._checked:
            return ""
        try:
            check_option(row.task, row.option, into[row.option], given)
        except SettingsError as error:
            return str(error)
        return ""

    def wrong_together(self, thing: str, options: Mapping[str, Mapping[str, Any]]) -> str:
        """Return why a thing's options cannot be used together, or ``""``."""
        if (size := size_of(options)) > LARGEST_OPTIONS:
            return f"its options take {size:,} bytes, and a device has room for {LARGEST_OPTIONS:,}"
        if not self._checked:
            return ""
        key = (self._key(thing), str(options))
        if key not in self._answers:
            self._answers[key] = self._refusal(thing, options)
        return self._answers[key]

    def _of(self, thing: str) -> Mapping[str, Any]:
        key = self._key(thing)
        if key not in self._values:
            self._values[key] = self._found.configuration(thing)
        return self._values[key]

    def _key(self, thing: str) -> tuple[str, ...]:
        return tuple(group.name for group in self._found.of(thing))

    def _refusal(self, thing: str, options: Mapping[str, Any]) -> str:
        values = self._of(thing)
        # A device ignores the options of a task that it does not have any more.
        tasks = {name: given for name, given in options.items() if name in values.get("tasks", {})}
        try:
            check_configuration(self._found.of(thing)[-1].trainer, merge(values, {"tasks": tasks}))
        except SettingsError as error:
            return str(error)
        return ""


def _of_thing(  # noqa: PLR0913, PLR0917 - what a revision is made of
    target: str,
    thing: str,
    old: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
    stack: Mapping[str, str],
    asked: Asked,
) -> Revision:
    wanted = Wanted(
        components={COMPONENT: VERSION},
        configuration={COMPONENT: configuration_of(options)},
        rollout=asked.rollout,
        name=asked.name,
        tags={"fedgrass:fleet": stack["Fleet"]},
    )
    arguments = revision(target, thing, old, wanted)
    return Revision(name=thing, arguments=arguments, changes=changes(old, arguments))


def _of_groups(found: FoundGroups, stack: Mapping[str, str]) -> Iterator[Revision]:
    """Yield a revision of each group that does not have the component.

    Nucleus Lite keeps the components of a thing's deployment only until the next deployment to a group of the
    thing, unless the group has them too.

    Raises:
        SettingsError: the deployment of a group would exceed the capacity of Nucleus Lite.
    """
    for group in found.groups:
        if COMPONENT in group.deployment["components"]:
            continue
        wanted = Wanted(components={COMPONENT: VERSION}, tags={"fedgrass:fleet": stack["Fleet"]})
        merged = configurations(group.deployment["components"])
        parts = document_parts({**dict.fromkeys([*group.deployment["components"], COMPONENT]), **merged})
        if group.lite and parts > MOST_PARTS:
            message = (
                f"with {COMPONENT} the deployment to {group.name} would have about {parts} values, and"
                f" Nucleus Lite, which {group.lite} of its devices run, refuses more than {MOST_PARTS}:"
                " configure fewer values for the group"
            )
            raise SettingsError(message)
        arguments = revision(group.target, group.name, group.deployment, wanted)
        yield Revision(name=group.name, arguments=arguments, changes=changes(group.deployment, arguments))


def _notes(found: FoundGroups, options: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    for group in found.groups:
        if group.lite and COMPONENT not in group.deployment["components"]:
            yield (
                f"devices of {group.name} with Nucleus Lite ({group.lite:,}) restart their trainer once,"
                " as at each deployment to their group"
            )
    both = Counter[tuple[str, str]]()
    unchecked = set[str]()
    for thing, given in options.items():
        for group in found.of(thing):
            of_group = group.merged.get("tasks", {})
            both.update(
                (f"{task}.{name}", group.name)
                for task, values in given.items()
                for name in values
                if isinstance(of_group.get(task), Mapping) and name in of_group[task]
            )
        tasks = found.configuration(thing).get("tasks", {})
        unchecked |= {task for task in given if given[task] and not is_checked(task, tasks.get(task) or {})}
    for (option, name), count in sorted(both.items()):
        things = f"{count:,} things" if count > 1 else "a thing"
        yield f"{option} is set for the group {name} too: the own value of {things} wins there"
    for task in sorted(unchecked):
        yield f"the options of {task}, a custom task, are checked on the devices only"
