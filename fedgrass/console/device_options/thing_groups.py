"""The groups whose deployments bring the trainer to things, and which of the things are members of each.

Reading the members of a group takes a few requests, asking for the groups of a thing one or more. So a thing
is asked about only if no group that is known already has it: a table of 3,000 things in one group costs one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from fedgrass.console.deploy.component_configuration import default_configuration
from fedgrass.console.deploy.device_deployment import configurations, merge
from fedgrass.console.greengrass_cloud import GreengrassCloud
from fedgrass.console.options import TRAINERS

MOST_UNKNOWN = 20  # things without a group of the trainer, after which no more are looked up


class TrainerGroup(Struct, frozen=True, kw_only=True):
    """A thing group with the trainer in its latest deployment."""

    name: str
    target: str  # ARN
    deployment: Mapping[str, Any]  # as GetDeployment returns it
    members: frozenset[str]  # things
    lite: int  # number of its core devices with Nucleus Lite

    @property
    def trainer(self) -> str:
        """The full name of the trainer component."""
        return next(name for name in TRAINERS if name in self.deployment["components"])

    @property
    def merged(self) -> Mapping[str, Any]:
        """The configuration that its deployment merges into the trainer's."""
        return configurations(self.deployment["components"]).get(self.trainer, {})


class FoundGroups(Struct, frozen=True):
    """The groups of things, and the reason for each thing that has none."""

    groups: Sequence[TrainerGroup]
    problems: Mapping[str, str]  # by thing

    def of(self, thing: str) -> list[TrainerGroup]:
        """Return the groups of a thing, that of the latest deployment last."""
        found = [group for group in self.groups if thing in group.members]
        return sorted(found, key=lambda group: str(group.deployment.get("creationTimestamp", "")))

    def configuration(self, thing: str) -> Mapping[str, Any]:
        """Return the trainer's configuration on a thing, without the thing's own options."""
        groups = self.of(thing)
        values = default_configuration(groups[-1].trainer)
        for group in groups:
            values = merge(values, group.merged)
        return values


def find_groups(cloud: GreengrassCloud, things: Iterable[str]) -> FoundGroups:
    """Return the groups that bring the trainer to things."""
    groups: dict[str, TrainerGroup] = {}
    others: set[str] = set()  # groups without the trainer
    problems: dict[str, str] = {}
    for thing in things:
        if any(thing in group.members for group in groups.values()):
            continue
        if len(problems) >= MOST_UNKNOWN:
            problems[thing] = "it was not looked up, after so many other wrong rows"
            continue
        found = cloud.groups_of(thing)
        if found is None:
            problems[thing] = f"there is no thing {thing!r} in the account and region"
            continue
        new = {name: target for name, target in found.items() if name not in groups and name not in others}
        groups.update({group.name: group for group in _with_trainer(cloud, new)})
        others |= new.keys() - groups.keys()
        if not any(name in groups for name in found):
            listed = ", ".join(sorted(found)) or "none"
            problems[thing] = (
                f"no thing group of {thing} has a deployment with the trainer (its groups: {listed}): deploy"
                " it by `fedgrass deploy devices --group GROUP`"
            )
    return FoundGroups([*groups.values()], problems)


def _with_trainer(cloud: GreengrassCloud, targets: Mapping[str, str]) -> Iterator[TrainerGroup]:
    for name, target in targets.items():
        deployment = cloud.latest_deployment(target)
        if any(trainer in deployment.get("components", {}) for trainer in TRAINERS):
            yield TrainerGroup(
                name=name,
                target=target,
                deployment=deployment,
                members=frozenset(cloud.members(name)),
                lite=cloud.lite_devices(target),
            )
