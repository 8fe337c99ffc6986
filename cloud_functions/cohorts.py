"""Whom a round asks: the candidates, what the run knows of them, and the strategy's choice."""

import random
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from cloud_functions.cloud import Cloud
from cloud_functions.metrics import Metric
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Round, Work
from fedgrass.federation.runs import Open, Run
from fedgrass.federation.selection import Candidate, average_turnaround, strategy
from fedgrass.federation.selection.filters import Requirements, rested
from fedgrass.federation.selection.where import parse_expression
from fedgrass.federation.settings import RunSettings

ROUNDS_REMEMBERED = 20  # of a run's history: what a device did before counts for nothing any more


class Cohort(Struct, frozen=True):
    """Whom a round asks, how many of them it wants to reply, and for what."""

    devices: list[str]
    wanted: int
    work: Work = Work.TRAIN


# Made here and not at its first use: see messages.py.
_COHORT = msgspec.json.Decoder(Cohort)


class _Past(Struct, frozen=True):
    """What a run knows of one device, as a candidate has it."""

    average_seconds: float | None = None
    loss: float | None = None
    rounds_since_measured: int | None = None
    rounds_since_asked: int | None = None
    times_asked: int = 0


def choose_once(cloud: Cloud, run: Run, step: Open) -> Cohort | None:
    """Choose the devices of a round, once: whoever comes second takes the first one's choice.

    That may be nobody, if the attempt was given up for want of devices. None: there is no device now.
    """
    rng = _rng(run, f"{step.number}/{step.attempt}")
    cohort = (_evaluators if step.work is Work.EVALUATE else _trainers)(cloud, run, rng)
    if not cohort.devices:
        return None
    return _keep_once(cloud, run, step, cohort)


def none_once(cloud: Cloud, run: Run, step: Open) -> Cohort:
    """Write that a round asks nobody, unless somebody was chosen; return whom it asks."""
    return _keep_once(cloud, run, step, Cohort([], 0, step.work))


def _keep_once(cloud: Cloud, run: Run, step: Open, cohort: Cohort) -> Cohort:
    key = object_keys.cohort(run.name, step.number, step.attempt)
    return _COHORT.decode(cloud.bucket.write_once(key, msgspec.json.encode(cohort)))


def _trainers(cloud: Cloud, run: Run, rng: random.Random) -> Cohort:
    """Choose whom a round of training asks: never a device that is held out."""
    needs = requirements(cloud, run.settings)
    suitable = _suitable(run, needs, _read(cloud, run, needs, rng, len(run.settings.held_out)))
    wanted = run.settings.cohort(len(suitable))
    chosen = _choose(cloud, run, suitable, run.settings.asked(wanted, len(suitable)), rng)
    return Cohort(chosen, min(wanted, len(chosen)))


def _evaluators(cloud: Cloud, run: Run, rng: random.Random) -> Cohort:
    """Choose who evaluates: the devices that are held out, or a share of all."""
    names = sorted(device.device for device in candidates(cloud, run.settings))
    if run.settings.held_out:
        chosen = sorted(set(names) & set(run.settings.held_out))
    else:
        share = max(int(len(names) * run.settings.evaluate_fraction), 1)
        chosen = sorted(rng.sample(names, min(share, len(names))))
    return Cohort(chosen, len(chosen), Work.EVALUATE)


def choose_others(cloud: Cloud, run: Run, current: Round, known: set[str], wanted: int) -> list[str]:
    """Choose at most ``wanted`` devices that are not ``known`` to the round yet; none to evaluate."""
    if current.work is Work.EVALUATE:
        return []
    rng = _rng(run, f"{current.number}/{current.attempt}/{current.asked}")
    needs = requirements(cloud, run.settings)
    found = _read(cloud, run, needs, rng, len(known) + len(run.settings.held_out))
    free = [device for device in _suitable(run, needs, found) if device.device not in known]
    return _choose(cloud, run, free, min(wanted, len(free)), rng)[:wanted]


def _suitable(run: Run, needs: Requirements, found: list[Candidate]) -> list[Candidate]:
    """Return those of the devices that a round of training may ask."""
    held_out = set(run.settings.held_out)
    return [device for device in found if needs.suits(device) and device.device not in held_out]


def candidates(cloud: Cloud, settings: RunSettings) -> list[Candidate]:
    """Return every device that a round of these settings could ask now."""
    suits = requirements(cloud, settings).suits
    return [device for device in _seen(cloud, settings) if suits(device)]


def some_candidates(cloud: Cloud, settings: RunSettings) -> list[Candidate]:
    """Return devices that a round of these settings could ask now: a cohort, if there are so many."""
    if settings.count is None:
        return candidates(cloud, settings)
    suits, rng = requirements(cloud, settings).suits, random.Random(0)  # noqa: S311 - whether there are some
    found = cloud.devices.sample(_earliest(cloud, settings), settings.count, rng, suits)
    return [device for device in found if suits(device)]


def requirements(cloud: Cloud, settings: RunSettings) -> Requirements:
    """Return what a run's settings ask of a device before any strategy chooses.

    The thing group is read here, once per choice: a device that joins it is asked from the next round on.
    """
    return Requirements(
        task=settings.task,
        seen_at_earliest=_earliest(cloud, settings),
        minimum_examples=settings.minimum_examples,
        where=parse_expression(settings.where) if settings.where else None,
        things=_members(cloud, settings) or frozenset() if settings.thing_group else None,
        cool_down_rounds=settings.cool_down_rounds,
    )


def _members(cloud: Cloud, settings: RunSettings) -> frozenset[str] | None:
    """Return the things of the run's group; None if there is no such group (any more)."""
    try:
        return cloud.thing_groups.members(settings.thing_group)
    except KeyError:
        return None


def nobody(cloud: Cloud, settings: RunSettings, work: Work = Work.TRAIN) -> str:
    """Return why there is no candidate, in words that say what to do."""
    if work is Work.EVALUATE and settings.held_out and candidates(cloud, settings):
        names = ", ".join(settings.held_out)
        return f"of the run's held_out devices none is there that could be asked: {names}"
    if settings.thing_group and _members(cloud, settings) is None:
        return (
            f"the run's thing_group is {settings.thing_group!r}, and AWS IoT has no thing group of that name "
            "in this region: create it, add things to it, or name another"
        )
    seen = _seen(cloud, settings)
    if any(settings.task in device.tasks for device in seen):
        return f"no device is as the run asks: {requirements(cloud, settings).explain(seen)}"
    tasks = ", ".join(sorted({task for device in seen for task in device.tasks})) or "none"
    return (
        f"no device with the task {settings.task!r} was seen in the last {settings.seen_within_seconds} s; "
        f"{len(seen)} devices were, with the tasks: {tasks}. Name one of those, or configure the task in "
        "the trainer component's `tasks`"
    )


def check_metric(settings: RunSettings, found: Sequence[Candidate]) -> None:
    """Check that somebody reports the metric that ends a run, as far as that is known.

    Raises:
        SettingsError: some of the candidates say what they report, and none of them reports it.
    """
    reported = sorted({name for candidate in found for name in candidate.metrics})
    if settings.target_metric and reported and settings.target_metric not in reported:
        message = (
            f"the run's target_metric is {settings.target_metric!r}, which no device reports; they report: "
            f"{', '.join(reported)}. If a new version of the task has it, train a round without it first"
        )
        raise SettingsError(message)


def _seen(cloud: Cloud, settings: RunSettings) -> list[Candidate]:
    """Return all devices that were seen lately enough; measured, since a sample does not tell how many."""
    found = cloud.devices.seen_since(_earliest(cloud, settings))
    cloud.log.measure(Metric.DEVICES_SEEN, len(found))
    return found


def _earliest(cloud: Cloud, settings: RunSettings) -> int:
    return cloud.now() - settings.seen_within_seconds * 1000


def _rng(run: Run, occasion: str) -> random.Random:
    """Return what makes a choice repeatable; it is no secret."""
    return random.Random(f"{run.name}/{occasion}")  # noqa: S311


def _read(cloud: Cloud, run: Run, needs: Requirements, rng: random.Random, beside: int) -> list[Candidate]:
    """Read the devices: a sample where the cohort is a count, so that a large fleet is not read whole."""
    settings, pool = run.settings, None
    if settings.count is not None:
        asked = settings.asked(settings.count, settings.count * 10)
        pool = strategy(settings.selection, settings.selection_options).pool(asked + beside)
    if pool is None:
        return _seen(cloud, settings)
    wanted = needs.to_read(pool, settings.count or 0)
    return cloud.devices.sample(needs.seen_at_earliest, wanted, rng, needs.suits)


def _choose(cloud: Cloud, run: Run, found: list[Candidate], count: int, rng: random.Random) -> list[str]:
    """Let the run's strategy choose among suitable devices, with their past where it looks at that."""
    choose = strategy(run.settings.selection, run.settings.selection_options)
    if choose.reads_history or run.settings.cool_down_rounds:
        past = _history(cloud, run)
        found = [_with_past(candidate, past.get(candidate.device, _Past())) for candidate in found]
    return choose(rested(found, run.settings.cool_down_rounds, count), count, rng)


def _with_past(candidate: Candidate, past: _Past) -> Candidate:
    return msgspec.structs.replace(candidate, **msgspec.structs.asdict(past))


def _history(cloud: Cloud, run: Run) -> dict[str, _Past]:
    """Return what the run's last rounds say of each device; rounds are counted back from the next one."""
    past: dict[str, _Past] = {}
    for number in range(max(1, run.round - ROUNDS_REMEMBERED + 1), run.round + 1):
        since = run.round + 1 - number
        for participant in _participants(cloud, run.name, number):
            known = past.get(participant.device, _Past())
            past[participant.device] = _after(known, participant, since)
    return past


def _participants(cloud: Cloud, run: str, number: int) -> Iterator[Participant]:
    attempt = 1
    while found := cloud.rounds.round(run, number, attempt):
        if found.work is Work.TRAIN:
            yield from cloud.rounds.participants(found)
        attempt += 1


def _after(known: _Past, participant: Participant, since: int) -> _Past:
    """Return what is known of a device once one more of its parts in a round is counted in."""
    asked = msgspec.structs.replace(known, rounds_since_asked=since, times_asked=known.times_asked + 1)
    if not participant.received_at:
        return asked
    return msgspec.structs.replace(
        asked,
        average_seconds=average_turnaround(known.average_seconds, participant.turnaround_seconds),
        loss=participant.metrics.get("loss", known.loss),
        rounds_since_measured=since,
    )
