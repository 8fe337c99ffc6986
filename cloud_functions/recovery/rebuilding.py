"""The attempts at a run's rounds, each from the table or, where its row is lost, from the bucket."""

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
    participants: list[Participant]  # those whose rows are missing, or are to be replaced
    unknown: int  # participants whose rows are missing and of whom the bucket knows too little
    over: Round | None = None  # the round's row, where the bucket has another end of it

    @property
    def rewritten(self) -> bool:
        """Whether the round's row is to be written."""
        return self.lost or self.over is not None


class _Base(Struct, frozen=True):
    """The model that a round starts from."""

    number: int
    sha256: str
    bytes: int
    carried: Carried
    at: int  # when it was there, in milliseconds


def read_attempts(services: Services, origin: Run, run: Run | None) -> list[Attempt]:
    """Return every attempt at every round of a run, in order.

    Args:
        services: the ports.
        origin: the run as it was at any time.
        run: its row, if that is there. It names the newest attempt; what lies in the bucket of a later one
            was only about to be opened.

    Raises:
        SettingsError: the bucket knows nothing of a round that the run had.
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
    return attempts


def is_behind(services: Services, run: Run) -> bool:
    """Return whether bucket or table have a later history of a run than its row.

    They have after the table was restored from a backup.
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
    """Return attempts that the table has after one that closed the round, and that go on.

    They were opened in a table that was restored, before it was known that the round had been closed.
    """
    found = []
    attempt = closed.attempt + 1
    while later := services.rounds.round(closed.run, closed.number, attempt):
        if later.state in {State.OPEN, State.AGGREGATING}:
            found.append(later)
        attempt += 1
    return found


def _was_skipped(services: Services, ended: Round, run: Run | None) -> bool:
    """Return whether a round is an evaluation without which the run went on: another round followed it."""
    if ended.state is not State.ABANDONED or ended.work is not Work.EVALUATE:
        return False
    if run:
        return ended.number < run.round
    return manifests.cohort_of(services, ended.run, ended.number + 1, 1) is not None


def _check_found(run: Run, number: int, found: list[Attempt]) -> None:
    """Refuse a run of which a round is in neither place: the run cannot go on from it."""
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
    """Return the attempts at one round, up to the ``last`` if that is known."""
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
    if kept and stored is None:  # of a table restored to just before the round, the rows may be older ones
        differing = [part for part in kept.participants if there.get(part.device) != part]
        return Attempt(rebuilt, lost=True, participants=differing, unknown=0)
    if kept and rebuilt.state in _AFTER_REPLIES:
        parts = kept.participants
    else:  # of a round whose row is there a device may have been counted already: it must not be asked again
        parts = _asked(rebuilt, cohort) if cohort and stored is None else []
    missing = [participant for participant in parts if participant.device not in there]
    unknown = max(0, rebuilt.asked - len(there) - len(missing))
    return Attempt(rebuilt, stored is None, missing, unknown)


def _of_its_model(services: Services, name: str, number: int, base: _Base) -> list[Attempt]:
    """Return a round of which nothing but its model is left, as one attempt; none if there is no model."""
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

    The model is written before the manifest: where it is, and no later attempt was made, the round was as
    good as closed. Otherwise the attempt is over: replies may have been counted that nobody remembers.
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
    """Return what the server keeps beside a model, as it lies in the bucket."""
    try:
        found = fingerprint(services.bucket, key)
    except KeyError as error:
        message = f"the server's state {key} is missing in the bucket: put it back, then repair again"
        raise SettingsError(message) from error
    return CarriedFile(key=key, sha256=found.sha256, bytes=found.bytes)
