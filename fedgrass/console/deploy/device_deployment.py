"""A Greengrass deployment to a thing group: what is wanted, over what there is, and what that changes.

Pure: the cloud is asked in greengrass_cloud.py. A revision of a deployment replaces all of the one before, so
whatever is not named here has to be taken over from it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import msgspec
from msgspec import Struct

KILOBYTES = 1024  # in a megabyte; Greengrass counts memory in kilobytes
_DEFAULT_FAILURE: Literal["ROLLBACK"] = "ROLLBACK"
_DEFAULT_UPDATE_SECONDS = 60


class Limits(Struct, frozen=True, kw_only=True):
    """What Greengrass lets a component take: ``runWith``. None is left as it was, or to the nucleus."""

    posix_user: str | None = None  # user:group
    cpus: float | None = None
    memory_megabytes: int | None = None


class Rollout(Struct, frozen=True, kw_only=True):
    """How a revision reaches the devices. None is left as it was, or takes the default."""

    per_minute: int | None = None  # devices that are told of it; all at once
    timeout_minutes: int | None = None  # after which a device has failed
    abort_percent: float | None = None  # of failed devices ends the roll-out
    on_failure: Literal["ROLLBACK", "DO_NOTHING"] | None = None  # ROLLBACK
    update_seconds: int | None = None  # that a component may ask for before it stops


class Wanted(Struct, frozen=True, kw_only=True):
    """What an operator wants of a group's devices."""

    components: Mapping[str, str] = {}  # full name: version
    configuration: Mapping[str, Mapping[str, Any]] = {}  # full name: what is merged into its own
    reset: Mapping[str, Sequence[str]] = {}  # full name: JSON pointers that go back to the recipe's defaults
    limits: Limits = Limits()  # of every component in `limited`
    limited: Sequence[str] = ()
    rollout: Rollout = Rollout()
    removed: Sequence[str] = ()
    name: str = ""
    tags: Mapping[str, str] = {}


def revision(target: str, group: str, old: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Return the arguments of CreateDeployment that make ``wanted`` of the group's deployment ``old``.

    Args:
        target: the ARN of the thing group.
        group: its name.
        old: what GetDeployment says of the group's newest deployment; empty if there is none.
        wanted: what is to be different. Everything else stays: components, configuration, policies, tags.
    """
    components = {
        name: deepcopy(dict(given))
        for name, given in old.get("components", {}).items()
        if name not in wanted.removed
    }
    for name, version in wanted.components.items():
        components[name] = {**components.get(name, {}), "componentVersion": version}
    for name, pointers in wanted.reset.items():
        _reset_configuration(components[name], pointers)
    for name, merged in wanted.configuration.items():
        _merge_configuration(components[name], merged)
    for name in wanted.limited:
        _limit(components[name], wanted.limits)
    arguments = {
        "targetArn": target,
        "deploymentName": wanted.name or old.get("deploymentName") or f"fedgrass to {group}",
        "components": components,
        "deploymentPolicies": _policies(old.get("deploymentPolicies", {}), wanted.rollout),
        "iotJobConfiguration": _job(old.get("iotJobConfiguration", {}), wanted.rollout),
        "tags": {**old.get("tags", {}), **wanted.tags},
        "parentTargetArn": old.get("parentTargetArn"),
    }
    return {name: value for name, value in arguments.items() if value or name == "components"}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a line per value that a revision changes: ``+`` new, ``-`` gone, ``~`` another one."""
    before, after = dict(_leaves(_compared(old))), dict(_leaves(_compared(new)))
    lines = []
    for place in sorted(before.keys() | after.keys()):
        if place not in before:
            lines.append(f"+ {place}: {_text(after[place])}")
        elif place not in after:
            lines.append(f"- {place}: {_text(before[place])}")
        elif before[place] != after[place]:
            lines.append(f"~ {place}: {_text(before[place])} -> {_text(after[place])}")
    return lines


def merge(into: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``into`` with ``over`` merged in, object by object, as a nucleus merges a configuration."""
    merged = dict(into)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]  # both are mappings
    return merged


def _merge_configuration(component: dict[str, Any], merged: Mapping[str, Any]) -> None:
    update = component.setdefault("configurationUpdate", {})
    update["merge"] = json.dumps(merge(_configuration(update), merged), sort_keys=True)


def _reset_configuration(component: dict[str, Any], pointers: Sequence[str]) -> None:
    """Have devices forget what earlier deployments merged at these places, before they merge the rest.

    A revision takes its merge over from the one before, so that the places are taken out of it too.
    """
    update = component.setdefault("configurationUpdate", {})
    update["reset"] = sorted({*update.get("reset", []), *pointers})
    kept = dict(_configuration(update))
    for pointer in pointers:
        kept = _without(kept, pointer.split("/")[1:])
    if "merge" in update:
        update["merge"] = json.dumps(kept, sort_keys=True)


def _without(values: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return an object without the value at a path."""
    if not path:
        return {}
    key, *rest = path
    inner = values.get(key)
    if rest and isinstance(inner, Mapping):
        return {**values, key: _without(inner, rest)}
    return {name: value for name, value in values.items() if rest or name != key}


def configurations(components: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what a deployment merges into the configuration of each component that it has one for."""
    found = {name: _configuration(given.get("configurationUpdate", {})) for name, given in components.items()}
    return {name: merged for name, merged in found.items() if merged}


def _configuration(update: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found = json.loads(update.get("merge") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def _limit(component: dict[str, Any], limits: Limits) -> None:
    run_with = component.setdefault("runWith", {})
    if limits.posix_user is not None:
        run_with["posixUser"] = limits.posix_user
    resources = run_with.setdefault("systemResourceLimits", {})
    if limits.cpus is not None:
        resources["cpus"] = limits.cpus
    if limits.memory_megabytes is not None:
        resources["memory"] = limits.memory_megabytes * KILOBYTES
    if not resources:
        del run_with["systemResourceLimits"]
    if not run_with:
        del component["runWith"]


def _policies(old: Mapping[str, Any], rollout: Rollout) -> dict[str, Any]:
    update = dict(old.get("componentUpdatePolicy", {}))
    seconds = rollout.update_seconds or update.get("timeoutInSeconds") or _DEFAULT_UPDATE_SECONDS
    return {
        **old,
        "failureHandlingPolicy": rollout.on_failure or old.get("failureHandlingPolicy") or _DEFAULT_FAILURE,
        "componentUpdatePolicy": {"action": "NOTIFY_COMPONENTS", **update, "timeoutInSeconds": seconds},
    }


def _job(old: Mapping[str, Any], rollout: Rollout) -> dict[str, Any]:
    job = dict(old)
    if rollout.per_minute is not None:
        job["jobExecutionsRolloutConfig"] = {"maximumPerMinute": rollout.per_minute}
    if rollout.timeout_minutes is not None:
        job["timeoutConfig"] = {"inProgressTimeoutInMinutes": rollout.timeout_minutes}
    if rollout.abort_percent is not None:
        criterion = {"failureType": "FAILED", "action": "CANCEL", "minNumberOfExecutedThings": 1}
        criterion["thresholdPercentage"] = rollout.abort_percent
        job["abortConfig"] = {"criteriaList": [criterion]}
    return job


_COMPARED = ("deploymentName", "components", "deploymentPolicies", "iotJobConfiguration", "tags")


def _compared(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people may change, with each configuration as an object and not as its JSON text."""
    shown: dict[str, Any] = {name: deployment.get(name, {}) for name in _COMPARED}
    shown["components"] = {
        name: _with_configuration(given) for name, given in deployment.get("components", {}).items()
    }
    return shown


def _with_configuration(component: Mapping[str, Any]) -> dict[str, Any]:
    update = component.get("configurationUpdate", {})
    if "merge" not in update:
        return dict(component)
    return {**component, "configurationUpdate": {**update, "merge": _configuration(update)}}


def _leaves(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}/{key}" if place else str(key))
    elif value != {}:
        yield place, value


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
