"""The devices that could be asked: the devices table, read as far as a round needs it and no further.

Where a round wants a number of devices, a sample is read that is in proportion to that number. Where it
wants all devices, or a share of all, the table is read page by page; a device that does not suit is never
held.

Every hour the devices are counted that the living runs could ask: a round that asks a ``count`` of
devices reads only a sample, however many of the rest are missing. EventBridge Scheduler sends this census
where the stack has the alarm ``DevicesMissing``.
"""

import random
from collections.abc import Collection, Iterable, Iterator

from msgspec import Struct

from cloud_functions.monitoring import Metric
from cloud_functions.services import Services
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import parse_expression
from fedgrass.federation.selection.filters import Requirements
from fedgrass.federation.settings import RunSettings


class Found(Struct, frozen=True):
    """What a look at the candidates found before a run: how many, and which metrics they report."""

    count: int
    metrics: frozenset[str]


def requirements(services: Services, settings: RunSettings, work: Work = Work.TRAIN) -> Requirements:
    """Return what a run's settings ask of a device before any strategy chooses, for this work.

    Devices that are held out never train.
    The thing group is read here, once per choice: a device that joins it is asked from the next round on.
    """
    return Requirements(
        task=settings.task,
        seen_at_earliest=services.now() - settings.seen_within_seconds * 1000,
        minimum_examples=settings.minimum_examples,
        where=parse_expression(settings.where) if settings.where else None,
        things=_members(services, settings) or frozenset() if settings.thing_group else None,
        held_out=frozenset(settings.held_out if work is Work.TRAIN else ()),
        cool_down_rounds=settings.cool_down_rounds,
    )


def _members(services: Services, settings: RunSettings) -> frozenset[str] | None:
    """Return the things of the run's group; None if there is no such group (any more)."""
    try:
        return services.thing_groups.members(settings.thing_group)
    except KeyError:
        return None


def _seen(services: Services, needs: Requirements) -> Iterator[Candidate]:
    """Yield every device that was seen lately enough, and measure how many, once all were read."""
    count = 0
    for device in services.devices.seen_since(needs.seen_at_earliest):
        count += 1
        yield device
    services.log.measure(Metric.DEVICES_SEEN, count)


def everybody(services: Services, needs: Requirements) -> Iterator[Candidate]:
    """Yield every device that suits, one page of the table after the other."""
    return filter(needs.suits, _seen(services, needs))


def read(
    services: Services,
    needs: Requirements,
    wanted: int | None,
    rng: random.Random,
    known: Collection[str] = (),
) -> list[Candidate]:
    """Return ``wanted`` devices that suit, or some more, drawn at random; None is everybody who suits.

    None of those that are ``known``.
    """

    def suits(device: Candidate) -> bool:
        return device.device not in known and needs.suits(device)

    if wanted is None:
        return [device for device in everybody(services, needs) if device.device not in known]
    return services.devices.sample(needs.seen_at_earliest, wanted, rng, suits)


def named(services: Services, needs: Requirements, names: Iterable[str]) -> list[str]:
    """Return those of some devices that suit: one row is read for each."""
    found = (services.devices.find(name) for name in names)
    return sorted(candidate.device for candidate in found if candidate and needs.suits(candidate))


def look(services: Services, settings: RunSettings) -> Found:
    """Look who could train, before a run is started: as many as a round asks, if that is a number."""
    needs = requirements(services, settings)
    if settings.count is None:
        found: Iterable[Candidate] = everybody(services, needs)
    else:
        rng = random.Random(0)  # noqa: S311 - whether there are some
        found = read(services, needs, settings.count, rng)
    count, metrics = 0, set[str]()
    for candidate in found:
        count += 1
        metrics |= candidate.metrics
    return Found(count, frozenset(metrics))


def nobody(services: Services, settings: RunSettings, work: Work = Work.TRAIN) -> str:
    """Return why there is no candidate, in words that say what to do. Reads every device, page by page."""
    needs = requirements(services, settings, work)
    if work is Work.EVALUATE and settings.held_out and next(everybody(services, needs), None):
        names = ", ".join(settings.held_out)
        return f"of the run's held_out devices none is there that could be asked: {names}"
    if settings.thing_group and _members(services, settings) is None:
        return (
            f"the run's thing_group is {settings.thing_group!r}, and AWS IoT has no thing group of that name "
            "in this region: create it, add things to it, or name another"
        )
    seen, tasks = 0, set[str]()

    def passing() -> Iterator[Candidate]:
        nonlocal seen
        for device in _seen(services, needs):
            seen += 1
            tasks.update(device.tasks)
            yield device

    words = needs.explain(passing())
    if settings.task in tasks:
        return f"no device is as the run asks: {words}"
    return (
        f"no device with the task {settings.task!r} was seen in the last {settings.seen_within_seconds} s; "
        f"{seen} devices were, with the tasks: {', '.join(sorted(tasks)) or 'none'}. Name one of those, or "
        "configure the task in the trainer component's `tasks`"
    )


def check_held_out(services: Services, settings: RunSettings) -> None:
    """Check that the devices that are held out are there: a name that is misspelled would train.

    Raises:
        SettingsError: some of them never sent a heartbeat, or not for so long that they were forgotten.
    """
    if unknown := [name for name in settings.held_out if services.devices.find(name) is None]:
        message = (
            f"the run's held_out names {', '.join(map(repr, unknown))}, of which no heartbeat is known:"
            " it takes thing names of devices of this fleet. Connect them first, or leave them out"
        )
        raise SettingsError(message)


def check_metric(settings: RunSettings, found: Found) -> None:
    """Check that somebody reports the metric that ends a run, as far as that is known.

    Raises:
        SettingsError: some of the candidates say what they report, and none of them reports it.
    """
    if settings.target_metric and found.metrics and settings.target_metric not in found.metrics:
        message = (
            f"the run's target_metric is {settings.target_metric!r}, which no device reports; they report: "
            f"{', '.join(sorted(found.metrics))}. If a new version of the task has it, train a round without"
            " it first"
        )
        raise SettingsError(message)


def count(services: Services) -> None:
    """Measure how many devices were seen as lately as the most patient run asks; without a run, nothing."""
    patience = [
        run.settings.seen_within_seconds for run, _ in services.living_runs() if run.state is RunState.RUNNING
    ]
    if patience:
        seen = services.devices.count(services.now() - max(patience) * 1000)
        services.log.measure(Metric.DEVICES_SEEN, seen)
