"""Deployments to a thing and to its group on a device: the thing's options win, and no version can clash.

The models below follow the sources of the nuclei. Classic (`DependencyResolver`, `KernelConfigResolver`): the
components of all targets are installed, each in a version that satisfies every target, and a deployment is
merged into the present configuration. Lite (`resolve_dependencies`, `cleanup_stale_versions`): the same, but
the deployment to a group considers components of groups only, not those of the thing's own deployment.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.device_options import COMPONENT, merge_device_options
from fedgrass.console.deploy.device_deployment import Wanted, merge, revision
from fedgrass.console.device_options.options_component import VERSION, configuration_of

TRAINER = "com.fedgrass.Trainer"
GROUP, THING = "arn:aws:iot:eu-west-1:1:thinggroup/presses", "arn:aws:iot:eu-west-1:1:thing/press-1"
NUCLEI = ["classic", "lite"]


class VersionConflict(Exception):
    """Two targets want different versions of a component: the nucleus fails the deployment."""


class NucleusModel:
    """What a core device has after deployments to its thing and its group."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.roots: dict[str, dict[str, str]] = {}  # component -> version, by target
        self.configuration: dict[str, dict[str, Any]] = {}

    def apply(self, deployment: dict[str, Any]) -> None:
        target, components = deployment["targetArn"], deployment["components"]
        roots = {**self.roots, target: {name: one["componentVersion"] for name, one in components.items()}}
        seen = {one for one in roots if one == target or self.kind == "classic" or "thinggroup" in one}
        for name in {name for one in seen for name in roots[one]}:
            if len({roots[one][name] for one in seen if name in roots[one]}) > 1:
                raise VersionConflict(name)
        self.roots = roots
        kept = {name for one in seen for name in roots[one]}
        self.configuration = {name: self.configuration.get(name, {}) for name in kept}
        for name, one in components.items():
            merged = json.loads(one.get("configurationUpdate", {}).get("merge", "{}"))
            self.configuration[name] = merge(self.configuration[name], merged)

    @property
    def tasks(self) -> Any:
        """The tasks that the trainer uses."""
        own = self.configuration.get(COMPONENT, {}).get("options", "")
        return merge_device_options(self.configuration[TRAINER], own)["tasks"]


def to_group(old: dict[str, Any], version: str, share: int) -> dict[str, Any]:
    wanted = Wanted(
        components={TRAINER: version, COMPONENT: VERSION},
        configuration={TRAINER: {"tasks": {"digits": {"share": share, "shares": 10}}}},
    )
    return revision(GROUP, "presses", old, wanted)


def to_thing(old: dict[str, Any], options: dict[str, int]) -> dict[str, Any]:
    merged = configuration_of({"digits": options})
    wanted = Wanted(components={COMPONENT: VERSION}, configuration={COMPONENT: merged})
    return revision(THING, "press-1", old, wanted)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("group"), st.sampled_from(["0.2.0", "0.3.0", "0.4.0"]), st.integers(0, 9)),
        st.tuples(
            st.just("thing"), st.dictionaries(st.sampled_from(["share", "shares"]), st.integers(0, 9)),
            st.booleans(),
        ),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@pytest.mark.parametrize("kind", NUCLEI)
@given(steps=STEPS)
def test_in_any_order_the_things_options_win_and_the_groups_version_is_free(
    kind: str, steps: list[tuple[Any, ...]]
) -> None:
    device = NucleusModel(kind)
    group, thing, options = to_group({}, "0.2.0", 0), dict[str, Any](), dict[str, int]()
    device.apply(group)
    late: list[dict[str, Any]] = []  # deployments to the thing that the device has not received yet
    for what, *given_values in steps:
        if what == "group":
            version, share = given_values
            group = to_group(group, version, share)
            device.apply(group)
        else:
            options, is_late = given_values
            thing = to_thing(thing, options)
            late = [thing] if is_late else []
            if not is_late:
                device.apply(thing)
    for deployment in late:
        device.apply(deployment)
    assert device.tasks["digits"] == {
        **json.loads(group["components"][TRAINER]["configurationUpdate"]["merge"])["tasks"]["digits"],
        **options,
    }
    assert device.roots[GROUP][TRAINER] == group["components"][TRAINER]["componentVersion"]


@pytest.mark.parametrize("kind", NUCLEI)
def test_with_the_trainer_itself_the_group_would_replace_the_things_options(kind: str) -> None:
    """Why the options are not in a deployment of the trainer to the thing: the obvious way, which fails."""
    device = NucleusModel(kind)
    group = to_group({}, "0.2.0", 0)
    device.apply(group)
    own = Wanted(components={TRAINER: "0.2.0"}, configuration={TRAINER: {"tasks": {"digits": {"share": 3}}}})
    device.apply(revision(THING, "press-1", {}, own))
    assert device.tasks["digits"]["share"] == 3
    device.apply(to_group(group, "0.2.0", 0))
    assert device.tasks["digits"]["share"] == 0
    upgrade = to_group(group, "0.3.0", 0)
    if kind == "classic":
        with pytest.raises(VersionConflict, match=TRAINER):
            device.apply(upgrade)


def test_without_the_component_in_the_group_lite_would_drop_it_with_the_options() -> None:
    device = NucleusModel("lite")
    wanted = Wanted(components={TRAINER: "0.2.0"}, configuration={TRAINER: {"tasks": {"digits": {}}}})
    group = revision(GROUP, "presses", {}, wanted)
    device.apply(group)
    device.apply(to_thing({}, {"share": 3}))
    assert device.tasks["digits"] == {"share": 3}
    device.apply(group)
    assert device.tasks["digits"] == {}
