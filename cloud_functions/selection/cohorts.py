"""Cohorts: the devices that a round asks, chosen by the run's strategy among the candidates.

A choice is stored in the bucket before the round is opened, so that workers that open the same round at the
same time, or again after a crash, ask the same devices.
"""

import contextlib
import random
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participant, Participation, Round, Work
from fedgrass.federation.runs import Open, Run
from fedgrass.federation.selection import Candidate, average_turnaround, strategy
from fedgrass.federation.selection.filters import Requirements, rested

_LARGEST_COHORT = 256 * 1024**2  # bytes: of more devices than a round can have
_ROUNDS_REMEMBERED = 20  # of a run's history; what devices did before is ignored


class Cohort(Struct, frozen=True):
    """The devices that a round asks, how many replies it aims for, and for which work."""

    devices: list[str]
    wanted: int
    work: Work = Work.TRAIN


# Created at import, not on first use: see messages/message_codec.py.
_COHORT = msgspec.json.Decoder(Cohort)


class _Past(Struct, frozen=True):
    """What a run knows of a device from earlier rounds, in the fields of ``Candidate``."""

    average_seconds: float | None = None
    loss: float | None = None
    rounds_since_measured: int | None = None
    rounds_since_asked: int | None = None
    times_asked: int = 0


def choose_once(services: Services, run: Run, step: Open) -> Cohort | None:
    """Choose the devices of a round and store them; if another worker's choice is stored, return that.

    Returns:
        The stored cohort, which is empty if the attempt was given up for lack of devices; None if no device
        can be asked now.
    """
    cohort = choose(services, run, step)
    if not cohort.devices:
        return None
    return store_once(services, run, step, msgspec.structs.replace(cohort, work=step.work))


def choose(services: Services, run: Run, step: Open) -> Cohort:
    """Choose the devices of a round, without storing them; the same again while the devices are the same."""
    rng = _rng(run, f"{step.number}/{step.attempt}")
    return (_evaluators if step.work is Work.EVALUATE else _trainers)(services, run, rng)


def none_once(services: Services, run: Run, step: Open) -> Cohort:
    """Store an empty cohort unless one is stored already; return the stored one."""
    return store_once(services, run, step, Cohort([], 0, step.work))


def store_once(services: Services, run: Run, step: Open, cohort: Cohort) -> Cohort:
    """Store a cohort unless one is stored already; return the stored one."""
    key, encoded = object_keys.cohort(run.name, step.number, step.attempt), msgspec.json.encode(cohort)
    while True:
        stored = services.bucket.write_once(key, encoded)
        try:
            return _COHORT.decode(stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            services.log(f"object {key} is damaged, another cohort is chosen: {error}", "WARNING")
        with contextlib.suppress(KeyError):  # it was removed at that moment
            damaged, version = services.bucket.read_version(key, _LARGEST_COHORT)
            if damaged == stored:
                services.bucket.write_over(key, encoded, version)


def _trainers(services: Services, run: Run, rng: random.Random) -> Cohort:
    """Choose the devices that a round asks to train."""
    settings, needs = run.settings, candidate_search.requirements(services, run.settings)
    if settings.selection == "all" and not settings.cool_down_rounds:  # only the names are held in memory
        names = sorted(device.device for device in candidate_search.suitable(services, needs))
        return Cohort(names, len(names))
    to_read = None
    if settings.count is not None:
        to_read = _to_read(run, needs, settings.asked(settings.count, settings.count * 10))
    found = candidate_search.draw(services, needs, to_read, rng)
    wanted = settings.cohort(len(found))
    chosen = _choose(services, run, found, settings.asked(wanted, len(found)), rng)
    return Cohort(chosen, min(wanted, len(chosen)))


def _evaluators(services: Services, run: Run, rng: random.Random) -> Cohort:
    """Choose the devices that evaluate: the held-out ones, a number of devices, or a fraction of all."""
    settings, needs = run.settings, candidate_search.requirements(services, run.settings, Work.EVALUATE)
    if settings.held_out:
        chosen = candidate_search.suitable_among(services, needs, settings.held_out)
        return Cohort(chosen, len(chosen), Work.EVALUATE)
    count, fraction = settings.evaluators
    if count is not None:
        found = candidate_search.draw(services, needs, count, rng)
        names, share = sorted(device.device for device in found), count
    else:
        names = sorted(device.device for device in candidate_search.suitable(services, needs))
        share = max(int(len(names) * fraction), 1)
    chosen = sorted(rng.sample(names, min(share, len(names))))
    return Cohort(chosen, len(chosen), Work.EVALUATE)


def choose_others(services: Services, run: Run, round_: Round, known: set[str], wanted: int) -> list[str]:
    """Choose at most ``wanted`` devices that are not ``known``; none for a round of evaluation.

    A sample is read until that many are found, also if the cohort itself was a fraction of all devices.
    """
    if round_.work is Work.EVALUATE:
        return []
    rng = _rng(run, f"{round_.number}/{round_.attempt}/{round_.asked}")
    needs = candidate_search.requirements(services, run.settings)
    free = candidate_search.draw(services, needs, _to_read(run, needs, wanted), rng, known)
    return _choose(services, run, free, min(wanted, len(free)), rng)[:wanted]


def choose_in_flight(
    services: Services, run: Run, known: set[str], wanted: int, occasion: tuple[int, ...]
) -> list[str]:
    """Choose at most ``wanted`` devices that are not ``known`` to train in a buffer.

    The selection "all" names no order in which devices take their turn: they are drawn at random.

    Args:
        services: the ports.
        run: the run.
        known: devices that train, or that have had their part in the round.
        wanted: how many to choose at most.
        occasion: the number of the round, and what distinguishes the choice from others of the round.
    """
    if run.settings.selection == "all":
        run = msgspec.structs.replace(run, settings=msgspec.structs.replace(run.settings, selection="random"))
    before = msgspec.structs.replace(run, round=occasion[0] - 1)  # the round itself is no history
    rng = _rng(run, "/".join(map(str, occasion)))
    needs = candidate_search.requirements(services, run.settings)
    free = candidate_search.draw(services, needs, _to_read(run, needs, wanted), rng, known)
    return _choose(services, before, free, min(wanted, len(free)), rng)[:wanted]


def _rng(run: Run, occasion: str) -> random.Random:
    """Return the random numbers of one choice, which is repeatable."""
    return random.Random(f"{run.name}/{occasion}")  # noqa: S311 - not a secret


def _to_read(run: Run, needs: Requirements, asked: int) -> int | None:
    """Return how many devices to read so that the strategy can choose ``asked`` of them; None for all."""
    pool = strategy(run.settings.selection, run.settings.selection_options).pool(asked)
    return None if pool is None else needs.to_read(pool, run.settings.count or asked)


def _choose(
    services: Services, run: Run, found: list[Candidate], count: int, rng: random.Random
) -> list[str]:
    """Let the run's strategy choose among suitable devices, with their history if it uses that."""
    choose = strategy(run.settings.selection, run.settings.selection_options)
    if choose.reads_history or run.settings.cool_down_rounds:
        past = _history(services, run)
        found = [_with_past(candidate, past.get(candidate.device, _Past())) for candidate in found]
    return choose(rested(found, run.settings.cool_down_rounds, count), count, rng)


def _with_past(candidate: Candidate, past: _Past) -> Candidate:
    return msgspec.structs.replace(candidate, **msgspec.structs.asdict(past))


def _history(services: Services, run: Run) -> dict[str, _Past]:
    """Return what is known of each device from the run's last rounds, counted back from the next one."""
    past: dict[str, _Past] = {}
    for number in range(max(1, run.round - _ROUNDS_REMEMBERED + 1), run.round + 1):
        since = run.round + 1 - number
        for participant in _participants(services, run.name, number):
            known = past.get(participant.device, _Past())
            past[participant.device] = _after(known, participant, since)
    return past


def _participants(services: Services, run: str, number: int) -> Iterator[Participant]:
    attempt = 1
    while found := services.rounds.round(run, number, attempt):
        if found.work is Work.TRAIN:
            for participant in services.rounds.participants(found):
                if participant.state is not Participation.CARRIED:  # its row in the later round is read too
                    yield participant
        attempt += 1


def _after(known: _Past, participant: Participant, since: int) -> _Past:
    """Return what is known of a device after one more participation, ``since`` rounds ago."""
    asked = msgspec.structs.replace(known, rounds_since_asked=since, times_asked=known.times_asked + 1)
    if not participant.received_at:
        return asked
    return msgspec.structs.replace(
        asked,
        average_seconds=average_turnaround(known.average_seconds, participant.turnaround_seconds),
        loss=participant.reported.get("loss", known.loss),
        rounds_since_measured=since,
    )
