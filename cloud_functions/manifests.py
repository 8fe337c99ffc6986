"""What the bucket keeps of runs and rounds, so that a table that was lost can be rebuilt (repair.py).

Nothing here is read while a run goes its way. The cohorts, which cohorts.py writes, are the third kind.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from cloud_functions.cloud import Cloud
from cloud_functions.cohorts import Cohort
from fedgrass.federation import counters, object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Round, State
from fedgrass.federation.runs import Run

LARGEST_MANIFEST = 256 * 1024**2  # bytes: half a million participants


class RoundManifest(Struct, frozen=True):
    """A closed round, who took part in it, and the run as it stood then."""

    round: Round
    participants: list[Participant]
    run: Run


# Made here and not at their first use: see messages.py.
_RUN = msgspec.json.Decoder(Run)
_ROUND = msgspec.json.Decoder(RoundManifest)
_COHORT = msgspec.json.Decoder(Cohort)

Kept = TypeVar("Kept")


def keep_run(cloud: Cloud, run: Run) -> None:
    """Keep a run that has no round yet; the first one's copy stays."""
    cloud.bucket.write_once(object_keys.run_manifest(run.name), msgspec.json.encode(run))


def draft_round(
    cloud: Cloud, leased: Round, participants: Sequence[Participant], result: Mapping[str, Any]
) -> None:
    """Draft what is to be kept of a round that is about to be closed with ``result``.

    Before it is closed, so that there is no closed round without; under the lease that closes it, so that
    one that was overtaken is never kept.
    """
    run = cloud.rounds.run(leased.run)
    if run is None:  # its row was lost a moment ago: the model tells `repair` that the round was closed
        return
    closed = msgspec.structs.replace(leased, state=State.CLOSED, **counters.tally(participants), **result)
    data = msgspec.json.encode(RoundManifest(closed, list(participants), run))
    cloud.bucket.write(_draft_of(closed), data)


def keep_round(cloud: Cloud, closed: Round) -> None:
    """Keep a closed round: what was drafted of it under the lease that closed it."""
    with contextlib.suppress(KeyError):  # of a round that `repair` rebuilt, which has none
        cloud.bucket.copy(_draft_of(closed), object_keys.round_manifest(closed.run, closed.number))


def _draft_of(closed: Round) -> str:
    return object_keys.draft(closed.run, closed.number, closed.attempt, closed.fence, "round")


def check_not_lost(cloud: Cloud, name: str) -> None:
    """Refuse to start a run anew whose rows were lost: its models are there, and models are written once."""
    if run_of(cloud, name) and cloud.rounds.run(name) is None:
        message = f"there was a run {name!r} whose rows were lost: `fedgrass repair {name}`, or another name"
        raise SettingsError(message)


def run_of(cloud: Cloud, name: str) -> Run | None:
    """Return a run as it was created, or None."""
    return _read(cloud, object_keys.run_manifest(name), _RUN)


def round_of(cloud: Cloud, name: str, number: int) -> RoundManifest | None:
    """Return how a round was closed, or None."""
    return _read(cloud, object_keys.round_manifest(name, number), _ROUND)


def cohort_of(cloud: Cloud, name: str, number: int, attempt: int) -> Cohort | None:
    """Return whom an attempt at a round asked at first, or None."""
    return _read(cloud, object_keys.cohort(name, number, attempt), _COHORT)


def _read(cloud: Cloud, key: str, decoder: msgspec.json.Decoder[Kept]) -> Kept | None:
    try:
        return decoder.decode(cloud.bucket.read(key, LARGEST_MANIFEST))
    except KeyError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = (
            f"object {key} in the bucket is damaged ({error}): remove it, or restore it if there is a copy"
        )
        raise SettingsError(message) from error
