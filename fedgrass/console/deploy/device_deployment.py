"""Compute the revision of a Greengrass deployment to a thing group, and what it changes.

A revision replaces the whole deployment before it, so everything that an operator does not change is copied
from it. This module is pure; greengrass_cloud.py talks to AWS.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import msgspec
from msgspec import Struct

_KILOBYTES = 1024  # per megabyte; Greengrass counts memory in kilobytes
_DEFAULT_FAILURE: Literal["ROLLBACK"] = "ROLLBACK"
_DEFAULT_UPDATE_SECONDS = 60
_COMPARED = ("deploymentName", "components", "deploymentPolicies", "iotJobConfiguration", "tags")


class Limits(Struct, frozen=True, kw_only=True):
    """Resource limits of a component (``runWith``). None keeps the value, or the default of the nucleus."""

    posix_user: str | None = None  # user:group
    cpus: float | None = None
    memory_megabytes: int | None = None


class Rollout(Struct, frozen=True, kw_only=True):
    """How a revision is rolled out to the devices. None keeps the value, or takes the default."""

    per_minute: int | None = None  # devices that are notified; default: all at once
    timeout_minutes: int | None = None  # after which a device counts as failed
    abort_percent: float | None = None  # of failed devices, which ends the roll-out
    on_failure: Literal["ROLLBACK", "DO_NOTHING"] | None = None  # default: ROLLBACK
    update_seconds: int | None = None  # by which a component may delay the update


class Wanted(Struct, frozen=True, kw_only=True):
    """The changes that an operator wants."""

    components: Mapping[str, str] = {}  # full name -> version
    configuration: Mapping[str, Mapping[str, Any]] = {}  # full name -> values to merge
    reset: Mapping[str, Sequence[str]] = {}  # full name -> JSON pointers to reset to the recipe's defaults
    limits: Limits = Limits()  # of every component in `limited`
    limited: Sequence[str] = ()
    users: Mapping[str, str] = {}  # full name -> user:group, if none is given and the component has none
    rollout: Rollout = Rollout()
    removed: Sequence[str] = ()
    name: str = ""
    tags: Mapping[str, str] = {}


def revision(target: str, group: str, old: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Return the arguments of CreateDeployment that apply ``wanted`` to the deployment ``old``.

    Args:
        target: the ARN of the thing group.
        group: its name.
        old: the latest deployment of the group, as GetDeployment returns it; empty if there is none.
        wanted: the changes. Other components, configuration, policies and tags are kept.
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
    for name, user in wanted.users.items():
        if name in components:
            components[name].setdefault("runWith", {}).setdefault("posixUser", user)
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
    """Return a line per changed value: ``+`` added, ``-`` removed, ``~`` changed."""
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
    """Return ``into`` with ``over`` merged into it recursively, as a nucleus merges a configuration."""
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
    """Reset values that earlier deployments merged; devices reset before they merge.

    A revision inherits the merge of the deployment before it, so the values are removed from that too.
    """
    update = component.setdefault("configurationUpdate", {})
    update["reset"] = sorted({*update.get("reset", []), *pointers})
    kept = dict(_configuration(update))
    for pointer in pointers:
        kept = _without(kept, pointer.split("/")[1:])
    if "merge" in update:
        update["merge"] = json.dumps(kept, sort_keys=True)


def _without(values: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return a copy of an object without the value at ``path``."""
    if not path:
        return {}
    key, *rest = path
    inner = values.get(key)
    if rest and isinstance(inner, Mapping):
        return {**values, key: _without(inner, rest)}
    return {name: value for name, value in values.items() if rest or name != key}


def configurations(components: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the values that a deployment merges, by component; components without any are left out."""
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
        resources["memory"] = limits.memory_megabytes * _KILOBYTES
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


def _compared(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a deployment to compare, with configurations as objects instead of JSON text."""
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
