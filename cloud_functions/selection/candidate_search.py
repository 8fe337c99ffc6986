"""Candidates: the devices that a round could ask, from the devices table.

For a round that asks a number of devices, a sample in proportion to that number is read. For a round that
asks all devices, or a fraction of them, the table is read page by page, and devices that do not meet the
requirements are dropped at once.

A round that reads only a sample does not notice missing devices. The devices that the living runs could ask
are therefore counted every hour, if the stack has the alarm ``DevicesMissing``.
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
    """The candidates found before a run starts: how many, and which metrics they report."""

    count: int
    metrics: frozenset[str]


def requirements(services: Services, settings: RunSettings, work: Work = Work.TRAIN) -> Requirements:
    """Return the requirements of a run's settings that a device must meet to be a candidate for some work.

    Devices that are held out never train. The thing group is read here, once per choice: a device that joins
    it can be asked from the next round on.
    """
    return Requirements(
        task=settings.task,
        seen_at_earliest=services.now() - settings.seen_within_seconds * 1000,
        minimum_examples=settings.minimum_examples,
        where=parse_expression(settings.where) if settings.where else None,
        things=_members(services, settings) or frozenset() if settings.thing_group else None,
        held_out=frozenset(settings.held_out if work is Work.TRAIN else ()),
        cool_down_rounds=settings.cool_down_rounds,
        messages=settings.has_server_app,
    )


def _members(services: Services, settings: RunSettings) -> frozenset[str] | None:
    """Return the things of the run's thing group; None if the group does not exist (any more)."""
    try:
        return services.thing_groups.members(settings.thing_group)
    except KeyError:
        return None


def _seen(services: Services, needs: Requirements) -> Iterator[Candidate]:
    """Yield every device that was seen recently enough; record their number once all were read."""
    count = 0
    for device in services.devices.seen_since(needs.seen_at_earliest):
        count += 1
        yield device
    services.log.measure(Metric.DEVICES_SEEN, count)


def suitable(services: Services, needs: Requirements) -> Iterator[Candidate]:
    """Yield every device that meets the requirements, page by page."""
    return filter(needs.suits, _seen(services, needs))


def draw(
    services: Services,
    needs: Requirements,
    wanted: int | None,
    rng: random.Random,
    known: Collection[str] = (),
) -> list[Candidate]:
    """Draw devices that meet the requirements at random, without those in ``known``.

    At least ``wanted`` devices are drawn, if that many exist; with None, all of them.
    """

    def suits(device: Candidate) -> bool:
        return device.device not in known and needs.suits(device)

    if wanted is None:
        return [device for device in suitable(services, needs) if device.device not in known]
    return services.devices.sample(needs.seen_at_earliest, wanted, rng, suits)


def suitable_among(services: Services, needs: Requirements, names: Iterable[str]) -> list[str]:
    """Return the names of those devices that meet the requirements; reads one row for each."""
    found = (services.devices.find(name) for name in names)
    return sorted(candidate.device for candidate in found if candidate and needs.suits(candidate))


def survey(services: Services, settings: RunSettings) -> Found:
    """Return what is found of devices that could train: all, or as many as a round asks."""
    needs = requirements(services, settings)
    wanted = settings.most_in_flight if settings.is_buffered else settings.count
    if wanted is None:
        found: Iterable[Candidate] = suitable(services, needs)
    else:
        rng = random.Random(0)  # noqa: S311 - any sample will do
        found = draw(services, needs, wanted, rng)
    count, metrics = 0, set[str]()
    for candidate in found:
        count += 1
        metrics |= candidate.metrics
    return Found(count, frozenset(metrics))


def why_none(services: Services, settings: RunSettings, work: Work = Work.TRAIN) -> str:
    """Return why a run has no candidate, and what to do about it. Reads every device, page by page."""
    needs = requirements(services, settings, work)
    if work is Work.EVALUATE and settings.held_out and next(suitable(services, needs), None):
        names = ", ".join(settings.held_out)
        return f"none of the run's held_out devices can be asked: {names}"
    if settings.thing_group and _members(services, settings) is None:
        return (
            f"the run's thing_group is {settings.thing_group!r}, but AWS IoT has no thing group of that name "
            "in this region: create it, add things to it, or name another"
        )
    seen, tasks = 0, set[str]()

    def passing() -> Iterator[Candidate]:
        nonlocal seen
        for device in _seen(services, needs):
            seen += 1
            tasks.update(device.tasks)
            yield device

    explanation = needs.explain(passing())
    if settings.task in tasks:
        return f"no device meets the run's requirements: {explanation}"
    return (
        f"no device with the task {settings.task!r} was seen in the last {settings.seen_within_seconds} s; "
        f"{seen} devices were, with the tasks: {', '.join(sorted(tasks)) or 'none'}. Name one of those, "
        "configure the task in the trainer component's `tasks`, or, if it is a component, deploy it: "
        f"`fedgrass deploy devices --group GROUP --task {settings.task}`"
    )


def check_held_out(services: Services, settings: RunSettings) -> None:
    """Check that the held-out devices exist: a device whose name is misspelled would not be held out.

    Raises:
        SettingsError: some of them never sent a heartbeat, or so long ago that their rows have expired.
    """
    if unknown := [name for name in settings.held_out if services.devices.find(name) is None]:
        message = (
            f"the run's held_out names {', '.join(map(repr, unknown))}, of which no heartbeat is known:"
            " it takes thing names of devices of this fleet. Connect them first, or leave them out"
        )
        raise SettingsError(message)


def check_metric(settings: RunSettings, found: Found) -> None:
    """Check that some device reports the metric that ends a run, as far as that is known.

    Raises:
        SettingsError: candidates have listed their metrics, and no list has it.
    """
    if settings.target_metric and found.metrics and settings.target_metric not in found.metrics:
        message = (
            f"the run's target_metric is {settings.target_metric!r}, which no device reports; they report: "
            f"{', '.join(sorted(found.metrics))}. If a new version of the task has it, train a round without"
            " it first"
        )
        raise SettingsError(message)


def count_devices(services: Services) -> None:
    """Record how many devices were seen recently enough for any running run; nothing if no run is running."""
    limits = [
        run.settings.seen_within_seconds for run, _ in services.living_runs() if run.state is RunState.RUNNING
    ]
    if limits:
        seen = services.devices.count(services.now() - max(limits) * 1000)
        services.log.measure(Metric.DEVICES_SEEN, seen)
