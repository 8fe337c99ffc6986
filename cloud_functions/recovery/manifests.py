"""Manifests: copies of runs and rounds in the bucket, from which a lost table can be rebuilt (repair.py).

A normal round only writes them. A repair also reads the stored cohorts (selection/cohorts.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from cloud_functions.selection.cohorts import Cohort
from cloud_functions.services import Services
from fedgrass.federation import object_keys, round_metrics
from fedgrass.federation.errors import LostRace, RunBehind, SettingsError
from fedgrass.federation.rounds import Participant, Round, State
from fedgrass.federation.runs import Run

_LARGEST_MANIFEST = 256 * 1024**2  # bytes: half a million participants
WITHOUT_MANIFEST = "rebuilt from its cohort; who replied is not known"


class RoundManifest(Struct, frozen=True):
    """A closed round, its participants, and the run as it was then."""

    round: Round
    participants: list[Participant]
    run: Run
    metrics: dict[str, float] = {}  # all of them, if the round's row has only some


# Created at import, not on first use: see messages/message_codec.py.
_RUN = msgspec.json.Decoder(Run)
_ROUND = msgspec.json.Decoder(RoundManifest)
_COHORT = msgspec.json.Decoder(Cohort)

Kept = TypeVar("Kept")


def keep_run(services: Services, run: Run) -> None:
    """Store the manifest of a run that has no round yet, unless it exists."""
    services.bucket.write_once(object_keys.run_manifest(run.name), msgspec.json.encode(run))


def draft_round(  # noqa: PLR0913, PLR0917 - the record of all of these
    services: Services,
    run: Run,
    leased: Round,
    participants: Sequence[Participant],
    result: Mapping[str, Any],
    metrics: dict[str, float],
) -> None:
    """Write the draft of the manifest of a round that is about to be closed with ``result``.

    It is written before the round is closed, so that every closed round has one, and under the name of the
    lease, so that the draft of an averager whose lease was taken over is never kept.
    """
    closed_round = msgspec.structs.replace(
        leased, state=State.CLOSED, **round_metrics.tally(participants), **result
    )
    more = metrics if closed_round.metrics_left_out else {}
    data = msgspec.json.encode(RoundManifest(closed_round, list(participants), run, more))
    services.bucket.write(_draft_of(closed_round), data)


def keep_round(services: Services, closed_round: Round) -> None:
    """Keep the manifest of a closed round that was drafted under the lease that closed it.

    Repeating it has no effect.

    Raises:
        RunBehind: the bucket has the same round with another result.
    """
    key = object_keys.round_manifest(closed_round.run, closed_round.number)
    try:
        if services.bucket.copy_once(_draft_of(closed_round), key):
            return
    except KeyError:
        if closed_round.reason == WITHOUT_MANIFEST:  # `repair` rebuilt it without its participants
            return
        services.log(f"{_draft_of(closed_round)} is lost: {key} is written from the table", "WARNING")
        kept = services.bucket.write_once(key, _from_table(services, closed_round))
    else:
        kept = services.bucket.read(key, _LARGEST_MANIFEST)
    try:
        first = _ROUND.decode(kept).round
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        services.log(f"object {key} is damaged ({error}): it is written again from the table", "WARNING")
        services.bucket.write(key, _from_table(services, closed_round))
        return
    if not is_same(first, closed_round):
        raise RunBehind(behind(closed_round.run, key))


def _from_table(services: Services, closed_round: Round) -> bytes:
    run = services.rounds.run(closed_round.run)
    stored = services.rounds.round(closed_round.run, closed_round.number, closed_round.attempt)
    if run is None or stored is None or not is_same(closed_round, stored):  # the table was replaced since
        raise LostRace(closed_round.run)
    participants = without_answers(services.rounds.participants(closed_round))
    return msgspec.json.encode(RoundManifest(closed_round, participants, run))


def without_answers(participants: Iterable[Participant]) -> list[Participant]:
    """Return participants without what each of them answered: manifests are kept, answers expire."""
    return [msgspec.structs.replace(part, answer="") if part.answer else part for part in participants]


def is_same(kept: Round, stored: Round) -> bool:
    """Return whether two records of a round have the same result; counters may have moved since."""

    def result(round_: Round) -> tuple[object, ...]:
        return round_.attempt, round_.state, round_.lease, round_.closed_at, round_.model_sha256

    return result(kept) == result(stored)


def why_behind(services: Services, run: str, number: int, *, has_model: bool = True) -> str:
    """Return why a run's row is behind: the bucket has the result of a round that the table has not closed.

    Results are written only for rounds that were closed. If there is one, the round was closed in a table
    that has since been replaced from a backup. ``has_model`` is whether such a round makes a model.

    Returns:
        The message for the operator; empty if the bucket has no result of the round.
    """
    models = [object_keys.model(run, number)] if has_model else []
    for key in (object_keys.round_manifest(run, number), *models):
        if services.bucket.exists(key):
            return behind(run, key)
    return ""


def behind(run: str, there: str) -> str:
    """Return the message that a run's row is older than something that exists, and what to do."""
    return (
        f"the row of run {run} is behind: {there} is of a later time. Was the rounds table restored from a"
        f" backup? `fedgrass run repair {run}` compares table and bucket; then `fedgrass run resume {run}`"
        " continues the run"
    )


def _draft_of(closed_round: Round) -> str:
    return object_keys.draft(
        closed_round.run, closed_round.number, closed_round.attempt, closed_round.lease, "round"
    )


def check_not_lost(services: Services, name: str) -> None:
    """Check that a new run is not one whose rows were lost: its models exist, and models are written once.

    Raises:
        SettingsError: the rows of the run were lost.
    """
    if run_of(services, name) and services.rounds.run(name) is None:
        message = (
            f"there was a run {name!r} whose rows were lost: `fedgrass run repair {name}` rebuilds them. Or"
            " choose another name"
        )
        raise SettingsError(message)


def is_kept(services: Services, name: str) -> bool:
    """Return whether a run of that name was ever started, also if its rows are lost."""
    return services.bucket.exists(object_keys.run_manifest(name))


def run_of(services: Services, name: str) -> Run | None:
    """Return a run as it was created, or None."""
    return _read(services, object_keys.run_manifest(name), _RUN)


def round_of(services: Services, name: str, number: int) -> RoundManifest | None:
    """Return the manifest of a closed round, or None."""
    return _read(services, object_keys.round_manifest(name, number), _ROUND)


def cohort_of(services: Services, name: str, number: int, attempt: int) -> Cohort | None:
    """Return the cohort of an attempt at a round, or None."""
    return _read(services, object_keys.cohort(name, number, attempt), _COHORT)


def _read(services: Services, key: str, decoder: msgspec.json.Decoder[Kept]) -> Kept | None:
    try:
        return decoder.decode(services.bucket.read(key, _LARGEST_MANIFEST))
    except KeyError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"object {key} in the bucket is damaged ({error}): remove it, or restore it from a copy"
        raise SettingsError(message) from error
