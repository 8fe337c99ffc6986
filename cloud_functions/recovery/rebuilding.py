"""Read the attempts at a run's rounds, each from the table or, if its row is lost, from the bucket."""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from cloud_functions.aggregation.model_files import fingerprint
from cloud_functions.recovery import manifests
from cloud_functions.recovery.manifests import WITHOUT_MANIFEST, RoundManifest
from cloud_functions.selection.cohorts import Cohort
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Carried, CarriedFile
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work
from fedgrass.federation.runs import Run

_AFTER_REPLIES = {State.AGGREGATING, State.CLOSED}


class Attempt(Struct, frozen=True):
    """One attempt at a round, and which of its rows are missing."""

    round: Round
    lost: bool  # the round's own row
    participants: list[Participant]  # whose rows are missing or have to be replaced
    unknown: int  # participants whose rows are missing and cannot be rebuilt from the bucket
    over: Round | None = None  # the round's row, if the bucket has another result of it
    counted: tuple[Participant, ...] = ()  # in the manifest: devices that answer earlier announcements
    moved: tuple[Participant, ...] = ()  # rows that have to be replaced: counted in later buffers

    @property
    def rewritten(self) -> bool:
        """Whether the round's row has to be written."""
        return self.lost or self.over is not None


class _Base(Struct, frozen=True):
    """The model that a round starts from."""

    number: int
    sha256: str
    bytes: int
    carried: Carried
    at: int  # when it was closed, in milliseconds since the epoch


def read_attempts(services: Services, origin: Run, run: Run | None) -> list[Attempt]:
    """Return every attempt at every round of a run, in order.

    ``origin`` is the run as it was at any time, ``run`` its row, if it exists. The row names the newest
    attempt; objects of a later attempt belong to one that was about to be opened.

    Raises:
        SettingsError: the bucket has no objects of a round that the run had.
    """
    attempts: list[Attempt] = []
    base = _Base(
        0,
        origin.initial_sha256,
        origin.initial_bytes,
        dict.fromkeys(origin.carries),
        origin.started_at,
    )
    number = 1
    while run is None or number <= run.round:
        last = run.attempt if run and number == run.round else None
        found = _read_round(services, origin.name, number, last, base)
        if run is None and not found:
            found = _of_its_model(services, origin.name, number, base)
        if run:
            _check_found(run, number, found)
        attempts += found
        if not found:
            break
        closed = found[-1].round
        if _was_skipped(services, closed, run):
            number += 1
            continue
        if closed.state is not State.CLOSED:
            break
        made = closed.base if closed.work is Work.EVALUATE else closed.number
        base = _Base(made, closed.model_sha256, closed.model_bytes, closed.carried, closed.closed_at)
        number += 1
    return _carried_over(services, attempts)


def _carried_over(services: Services, attempts: list[Attempt]) -> list[Attempt]:
    """Return attempts at the buffers of a run without devices in flight that a later buffer has counted.

    The manifest of a buffer was written before these devices replied. Without this their replies, delivered
    again, would be counted again.
    """
    to = {
        (part.from_round, part.from_attempt, part.device): attempt.round
        for attempt in attempts
        for part in attempt.counted
    }
    return [_without_carried(services, attempt, to) for attempt in attempts] if to else attempts


def _without_carried(
    services: Services, attempt: Attempt, to: Mapping[tuple[int, int, str], Round]
) -> Attempt:
    """Return an attempt whose rows of devices in ``to`` are CARRIED to these buffers."""
    round_, moved, missing = attempt.round, [], {part.device: part for part in attempt.participants}
    for (number, which, device), buffer in to.items():
        if (number, which) != (round_.number, round_.attempt):
            continue
        part = missing.get(device) or services.rounds.participant(round_, device)
        if part and part.state is not Participation.CARRIED:
            missing.pop(device, None)
            moved.append(
                msgspec.structs.replace(
                    part,
                    state=Participation.CARRIED,
                    to_round=buffer.number,
                    to_attempt=buffer.attempt,
                )
            )
    return msgspec.structs.replace(attempt, participants=list(missing.values()), moved=tuple(moved))


def is_behind(services: Services, run: Run) -> bool:
    """Return whether the bucket or the table have later rounds of a run than its row.

    This happens after the table was restored from a backup.
    """
    for later in ((run.round, run.attempt + 1), (run.round + 1, 1)):
        if services.rounds.round(run.name, *later):
            return True
    if run.round:
        manifest = manifests.round_of(services, run.name, run.round)
        if manifest and manifest.round.attempt != run.attempt:
            return True
        newest = services.rounds.round(run.name, run.round, run.attempt)
        if newest and newest.state is not State.CLOSED and _has_end(services, run.name, run.round):
            return True
        if manifest and newest and not manifests.is_same(manifest.round, newest):
            return True
    return _has_end(services, run.name, run.round + 1)


def _has_end(services: Services, name: str, number: int) -> bool:
    keys = (object_keys.round_manifest(name, number), object_keys.model(name, number))
    return any(services.bucket.exists(key) for key in keys)


def later_attempts(services: Services, closed: Round) -> list[Round]:
    """Return the unfinished attempts that the table has after the one that closed the round.

    They were opened in a restored table that did not know that the round had been closed.
    """
    found = []
    attempt = closed.attempt + 1
    while later := services.rounds.round(closed.run, closed.number, attempt):
        if later.state in {State.OPEN, State.AGGREGATING}:
            found.append(later)
        attempt += 1
    return found


def _was_skipped(services: Services, ended: Round, run: Run | None) -> bool:
    """Return whether a round is an evaluation that the run skipped: another round followed it."""
    if ended.state is not State.ABANDONED or ended.work is not Work.EVALUATE:
        return False
    if run:
        return ended.number < run.round
    return manifests.cohort_of(services, ended.run, ended.number + 1, 1) is not None


def _check_found(run: Run, number: int, found: list[Attempt]) -> None:
    """Check that each round of a run is in the table or in the bucket.

    Raises:
        SettingsError: a round is in neither, so that the run cannot continue from it.
    """
    newest = number == run.round
    if not found or (newest and found[-1].round.attempt < run.attempt):
        missing = "a cohort"
    elif not newest and not _has_ended_well(found[-1].round):
        missing = f"the model {object_keys.model(run.name, number)}"
    else:
        return
    message = f"round {number} of run {run.name!r} cannot be rebuilt: the bucket lacks {missing} of it"
    raise SettingsError(message)


def _has_ended_well(of: Round) -> bool:
    return of.state is State.CLOSED or (of.state is State.ABANDONED and of.work is Work.EVALUATE)


def _read_round(services: Services, name: str, number: int, last: int | None, base: _Base) -> list[Attempt]:
    """Return the attempts at one round, up to the ``last`` one if that is known."""
    manifest = manifests.round_of(services, name, number)
    found: list[Attempt] = []
    attempt = 1
    while last is None or attempt <= last:
        one = _read_attempt(services, name, (number, attempt), manifest, base)
        if one is None:
            break
        found.append(one)
        attempt += 1
        if one.round.state is State.CLOSED:
            break
    return found


def _read_attempt(
    services: Services, name: str, which: tuple[int, int], manifest: RoundManifest | None, base: _Base
) -> Attempt | None:
    attempt = which[1]
    kept = manifest if manifest and manifest.round.attempt == attempt else None
    found = _compared(services, name, which, manifest, base)
    if found is None or kept is None:
        return found
    return msgspec.structs.replace(found, counted=tuple(p for p in kept.participants if p.from_round))


def _compared(
    services: Services, name: str, which: tuple[int, int], manifest: RoundManifest | None, base: _Base
) -> Attempt | None:
    """Return an attempt as the table or, if its row is lost or behind, the bucket has it."""
    number, attempt = which
    stored = services.rounds.round(name, number, attempt)
    kept = manifest if manifest and manifest.round.attempt == attempt else None
    cohort = manifests.cohort_of(services, name, number, attempt)
    if stored is None and kept is None and cohort is None:
        return None
    if stored and kept and not manifests.is_same(kept.round, stored):
        return Attempt(kept.round, lost=False, participants=kept.participants, unknown=0, over=stored)
    if stored and not manifest and stored.state is not State.CLOSED:
        made = _without_manifest(services, name, which, cohort, base)
        if made.state is State.CLOSED:
            made = msgspec.structs.replace(made, asked=stored.asked, opened_at=stored.opened_at)
            return Attempt(made, lost=False, participants=[], unknown=0, over=stored)
    rebuilt = stored or (kept.round if kept else _without_manifest(services, name, which, cohort, base))
    there = {participant.device: participant for participant in services.rounds.participants(rebuilt)}
    if kept and stored is None:  # in a table restored to just before the round, rows may be older
        differing = [part for part in kept.participants if there.get(part.device) != part]
        return Attempt(rebuilt, lost=True, participants=differing, unknown=0)
    if kept and rebuilt.state in _AFTER_REPLIES:
        parts = kept.participants
    else:  # if the round's row exists, a device may have been counted already: it must not be asked again
        parts = _asked(rebuilt, cohort) if cohort and stored is None else []
    missing = [participant for participant in parts if participant.device not in there]
    unknown = max(0, rebuilt.asked - len(there) - len(missing))
    return Attempt(rebuilt, stored is None, missing, unknown)


def _of_its_model(services: Services, name: str, number: int, base: _Base) -> list[Attempt]:
    """Return the single attempt at a round of which only the model is left; empty without a model."""
    made = _without_manifest(services, name, (number, 1), None, base)
    return [Attempt(made, lost=True, participants=[], unknown=0)] if made.state is State.CLOSED else []


def _asked(of: Round, cohort: Cohort) -> list[Participant]:
    return [
        Participant(device=device, state=Participation.ASKED, announced_at=of.opened_at)
        for device in cohort.devices
    ]


def _without_manifest(
    services: Services, name: str, which: tuple[int, int], cohort: Cohort | None, base: _Base
) -> Round:
    """Return an attempt of which only the cohort, and perhaps the model, is left.

    The model is written before the manifest: if it exists and there was no later attempt, the round counts as
    closed. Otherwise the attempt counts as abandoned, since replies may have been counted that are lost.
    """
    number, attempt = which
    asked = len(cohort.devices) if cohort else 0
    rebuilt = Round(
        run=name,
        number=number,
        attempt=attempt,
        work=cohort.work if cohort else Work.TRAIN,
        state=State.ABANDONED,
        asked=asked,
        needed=asked,
        minimum=1,
        opened_at=base.at,
        deadline_at=base.at,
        base=base.number,
        base_sha256=base.sha256,
        base_bytes=base.bytes,
        base_carried=base.carried,
        announced_batches=1,
        closed_at=base.at,
        reason=WITHOUT_MANIFEST,
    )
    later = services.rounds.round(name, number, attempt + 1) or manifests.cohort_of(
        services, name, number, attempt + 1
    )
    if later:
        return rebuilt
    try:
        model = fingerprint(services.bucket, object_keys.model(name, number))
    except KeyError:
        return rebuilt
    return msgspec.structs.replace(
        rebuilt,
        state=State.CLOSED,
        model_sha256=model.sha256,
        model_bytes=model.bytes,
        carried={what: _carried(services, object_keys.state(name, number, what)) for what in base.carried},
    )


def _carried(services: Services, key: str) -> CarriedFile:
    """Return the description of a file of auxiliary state in the bucket. Raises SettingsError."""
    try:
        found = fingerprint(services.bucket, key)
    except KeyError as error:
        message = f"the server's state {key} is missing in the bucket: put it back, then repair again"
        raise SettingsError(message) from error
    return CarriedFile(key=key, sha256=found.sha256, bytes=found.bytes)
