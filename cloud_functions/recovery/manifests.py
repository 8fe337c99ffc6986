"""What the bucket keeps of runs and rounds, so that a table that was lost can be rebuilt (repair.py).

Nothing here is read while a run goes its way. The cohorts, which cohorts.py writes, are the third kind.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from cloud_functions.selection.cohorts import Cohort
from cloud_functions.services import Services
from fedgrass.federation import counters, object_keys
from fedgrass.federation.errors import LostRace, RunBehind, SettingsError
from fedgrass.federation.rounds import Participant, Round, State
from fedgrass.federation.runs import Run

LARGEST_MANIFEST = 256 * 1024**2  # bytes: half a million participants
WITHOUT_MANIFEST = "rebuilt from its cohort; who replied is not known"


class RoundManifest(Struct, frozen=True):
    """A closed round, who took part in it, and the run as it stood then."""

    round: Round
    participants: list[Participant]
    run: Run
    metrics: dict[str, float] = {}  # all of them, where the round's row has only some


# Made here and not at their first use: see messages.py.
_RUN = msgspec.json.Decoder(Run)
_ROUND = msgspec.json.Decoder(RoundManifest)
_COHORT = msgspec.json.Decoder(Cohort)

Kept = TypeVar("Kept")


def keep_run(services: Services, run: Run) -> None:
    """Keep a run that has no round yet; the first one's copy stays."""
    services.bucket.write_once(object_keys.run_manifest(run.name), msgspec.json.encode(run))


def draft_round(  # noqa: PLR0913, PLR0917  # it is the record of all of these
    services: Services,
    run: Run,
    leased: Round,
    participants: Sequence[Participant],
    result: Mapping[str, Any],
    metrics: dict[str, float],
) -> None:
    """Draft what is to be kept of a round that is about to be closed with ``result``.

    Before it is closed, so that there is no closed round without; under the lease that closes it, so that
    one that was overtaken is never kept.
    """
    closed = msgspec.structs.replace(leased, state=State.CLOSED, **counters.tally(participants), **result)
    more = metrics if closed.metrics_left_out else {}
    data = msgspec.json.encode(RoundManifest(closed, list(participants), run, more))
    services.bucket.write(_draft_of(closed), data)


def keep_round(services: Services, closed: Round) -> None:
    """Keep a closed round: what was drafted of it under the lease that closed it. Repeating it does no harm.

    Raises:
        RunBehind: the bucket has the same round with another end.
    """
    key = object_keys.round_manifest(closed.run, closed.number)
    try:
        if services.bucket.copy_once(_draft_of(closed), key):
            return
    except KeyError:
        if closed.reason == WITHOUT_MANIFEST:  # `repair` rebuilt it: its participants are not known
            return
        services.log(f"{_draft_of(closed)} is lost: {key} is made of the table's rows", "WARNING")
        kept = services.bucket.write_once(key, _from_table(services, closed))
    else:
        kept = services.bucket.read(key, LARGEST_MANIFEST)
    try:
        first = _ROUND.decode(kept).round
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        services.log(f"object {key} is damaged ({error}): it is made again of the table's rows", "WARNING")
        services.bucket.write(key, _from_table(services, closed))
        return
    if not is_same(first, closed):
        raise RunBehind(behind(closed.run, key))


def _from_table(services: Services, closed: Round) -> bytes:
    run = services.rounds.run(closed.run)
    stored = services.rounds.round(closed.run, closed.number, closed.attempt)
    if run is None or stored is None or not is_same(closed, stored):  # the table is another one by now
        raise LostRace(closed.run)
    return msgspec.json.encode(RoundManifest(closed, list(services.rounds.participants(closed)), run))


def is_same(kept: Round, stored: Round) -> bool:
    """Return whether the bucket and the table tell the same end of a round; counters may have moved since."""
    ends = [(of.attempt, of.state, of.lease, of.closed_at, of.model_sha256) for of in (kept, stored)]
    return ends[0] == ends[1]


def check_not_behind(services: Services, run: str, number: int) -> None:
    """Check that the bucket does not have the end of a round which the table has not closed.

    Only a round that was closed is written there. So it was closed in a table that is gone, and the one in
    its place was restored from a backup.

    Raises:
        RunBehind: it has.
    """
    for key in (object_keys.round_manifest(run, number), object_keys.model(run, number)):
        if services.bucket.exists(key):
            raise RunBehind(behind(run, key))


def behind(run: str, there: str) -> str:
    """Return in words that a run's row is behind something that is there, and the way out."""
    return (
        f"the row of run {run} is behind, since there is {there} of another time: was the rounds table"
        f" restored from a backup? `fedgrass repair {run}` compares table and bucket, then"
        f" `fedgrass run resume {run}` goes on"
    )


def _draft_of(closed: Round) -> str:
    return object_keys.draft(closed.run, closed.number, closed.attempt, closed.lease, "round")


def check_not_lost(services: Services, name: str) -> None:
    """Refuse to start a run anew whose rows were lost: its models are there, and models are written once."""
    if run_of(services, name) and services.rounds.run(name) is None:
        message = f"there was a run {name!r} whose rows were lost: `fedgrass repair {name}`, or another name"
        raise SettingsError(message)


def is_kept(services: Services, name: str) -> bool:
    """Return whether there was a run of that name, whatever became of its rows."""
    return services.bucket.exists(object_keys.run_manifest(name))


def run_of(services: Services, name: str) -> Run | None:
    """Return a run as it was created, or None."""
    return _read(services, object_keys.run_manifest(name), _RUN)


def round_of(services: Services, name: str, number: int) -> RoundManifest | None:
    """Return how a round was closed, or None."""
    return _read(services, object_keys.round_manifest(name, number), _ROUND)


def cohort_of(services: Services, name: str, number: int, attempt: int) -> Cohort | None:
    """Return whom an attempt at a round asked at first, or None."""
    return _read(services, object_keys.cohort(name, number, attempt), _COHORT)


def _read(services: Services, key: str, decoder: msgspec.json.Decoder[Kept]) -> Kept | None:
    try:
        return decoder.decode(services.bucket.read(key, LARGEST_MANIFEST))
    except KeyError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = (
            f"object {key} in the bucket is damaged ({error}): remove it, or restore it if there is a copy"
        )
        raise SettingsError(message) from error
