"""Whom a round asks: the candidates, what the run knows of them, and the strategy's choice."""

import contextlib
import random
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participant, Round, Work
from fedgrass.federation.runs import Open, Run
from fedgrass.federation.selection import Candidate, average_turnaround, strategy
from fedgrass.federation.selection.filters import Requirements, rested

LARGEST_COHORT = 256 * 1024**2  # bytes: more devices than a round can have
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


def choose_once(services: Services, run: Run, step: Open) -> Cohort | None:
    """Choose the devices of a round, once: whoever comes second takes the first one's choice.

    That may be nobody, if the attempt was given up for want of devices. None: there is no device now.
    """
    rng = _rng(run, f"{step.number}/{step.attempt}")
    cohort = (_evaluators if step.work is Work.EVALUATE else _trainers)(services, run, rng)
    if not cohort.devices:
        return None
    return _keep_once(services, run, step, cohort)


def none_once(services: Services, run: Run, step: Open) -> Cohort:
    """Write that a round asks nobody, unless somebody was chosen; return whom it asks."""
    return _keep_once(services, run, step, Cohort([], 0, step.work))


def _keep_once(services: Services, run: Run, step: Open, cohort: Cohort) -> Cohort:
    key, mine = object_keys.cohort(run.name, step.number, step.attempt), msgspec.json.encode(cohort)
    while True:
        kept = services.bucket.write_once(key, mine)
        try:
            return _COHORT.decode(kept)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            services.log(f"object {key} is damaged, another cohort is chosen: {error}", "WARNING")
        with contextlib.suppress(KeyError):  # removed at that moment
            damaged, version = services.bucket.read_version(key, LARGEST_COHORT)
            if damaged == kept:
                services.bucket.write_over(key, mine, version)


def _trainers(services: Services, run: Run, rng: random.Random) -> Cohort:
    """Choose whom a round of training asks."""
    settings, needs = run.settings, candidate_search.requirements(services, run.settings)
    if settings.selection == "all" and not settings.cool_down_rounds:  # the names alone are held
        names = sorted(device.device for device in candidate_search.everybody(services, needs))
        return Cohort(names, len(names))
    to_read = None
    if settings.count is not None:
        to_read = _to_read(run, needs, settings.asked(settings.count, settings.count * 10))
    found = candidate_search.read(services, needs, to_read, rng)
    wanted = settings.cohort(len(found))
    chosen = _choose(services, run, found, settings.asked(wanted, len(found)), rng)
    return Cohort(chosen, min(wanted, len(chosen)))


def _evaluators(services: Services, run: Run, rng: random.Random) -> Cohort:
    """Choose who evaluates: the devices that are held out, a number of devices, or a share of all."""
    settings, needs = run.settings, candidate_search.requirements(services, run.settings, Work.EVALUATE)
    if settings.held_out:
        chosen = candidate_search.named(services, needs, settings.held_out)
        return Cohort(chosen, len(chosen), Work.EVALUATE)
    count, fraction = settings.evaluators
    if count is not None:
        found = candidate_search.read(services, needs, count, rng)
        names, share = sorted(device.device for device in found), count
    else:
        names = sorted(device.device for device in candidate_search.everybody(services, needs))
        share = max(int(len(names) * fraction), 1)
    chosen = sorted(rng.sample(names, min(share, len(names))))
    return Cohort(chosen, len(chosen), Work.EVALUATE)


def choose_others(services: Services, run: Run, current: Round, known: set[str], wanted: int) -> list[str]:
    """Choose at most ``wanted`` devices that are not ``known`` to the round yet; none to evaluate.

    Whatever the run asks in its rounds, here it asks for a number: a sample is read until so many are found
    that the round does not know.
    """
    if current.work is Work.EVALUATE:
        return []
    rng = _rng(run, f"{current.number}/{current.attempt}/{current.asked}")
    needs = candidate_search.requirements(services, run.settings)
    free = candidate_search.read(services, needs, _to_read(run, needs, wanted), rng, known)
    return _choose(services, run, free, min(wanted, len(free)), rng)[:wanted]


def _rng(run: Run, occasion: str) -> random.Random:
    """Return what makes a choice repeatable; it is no secret."""
    return random.Random(f"{run.name}/{occasion}")  # noqa: S311


def _to_read(run: Run, needs: Requirements, asked: int) -> int | None:
    """Return how many devices the run's strategy needs to choose ``asked`` of them; None: all."""
    pool = strategy(run.settings.selection, run.settings.selection_options).pool(asked)
    return None if pool is None else needs.to_read(pool, run.settings.count or asked)


def _choose(
    services: Services, run: Run, found: list[Candidate], count: int, rng: random.Random
) -> list[str]:
    """Let the run's strategy choose among suitable devices, with their past where it looks at that."""
    choose = strategy(run.settings.selection, run.settings.selection_options)
    if choose.reads_history or run.settings.cool_down_rounds:
        past = _history(services, run)
        found = [_with_past(candidate, past.get(candidate.device, _Past())) for candidate in found]
    return choose(rested(found, run.settings.cool_down_rounds, count), count, rng)


def _with_past(candidate: Candidate, past: _Past) -> Candidate:
    return msgspec.structs.replace(candidate, **msgspec.structs.asdict(past))


def _history(services: Services, run: Run) -> dict[str, _Past]:
    """Return what the run's last rounds say of each device; rounds are counted back from the next one."""
    past: dict[str, _Past] = {}
    for number in range(max(1, run.round - ROUNDS_REMEMBERED + 1), run.round + 1):
        since = run.round + 1 - number
        for participant in _participants(services, run.name, number):
            known = past.get(participant.device, _Past())
            past[participant.device] = _after(known, participant, since)
    return past


def _participants(services: Services, run: str, number: int) -> Iterator[Participant]:
    attempt = 1
    while found := services.rounds.round(run, number, attempt):
        if found.work is Work.TRAIN:
            yield from services.rounds.participants(found)
        attempt += 1


def _after(known: _Past, participant: Participant, since: int) -> _Past:
    """Return what is known of a device once one more of its parts in a round is counted in."""
    asked = msgspec.structs.replace(known, rounds_since_asked=since, times_asked=known.times_asked + 1)
    if not participant.received_at:
        return asked
    return msgspec.structs.replace(
        asked,
        average_seconds=average_turnaround(known.average_seconds, participant.turnaround_seconds),
        loss=participant.reported.get("loss", known.loss),
        rounds_since_measured=since,
    )
