"""Read the rounds of a run with a ServerApp, each from the table or, if its row is lost, from the bucket.

A closed round has a manifest. Of a round that was open or abandoned, the bucket has the list of its messages:
it is rebuilt as abandoned, since replies to it may have been counted that are lost. Its ServerApp has error
replies then, as of any other abandoned round.
"""

from collections.abc import Sequence

import msgspec

from cloud_functions.recovery import manifests
from cloud_functions.recovery.manifests import WITHOUT_MANIFEST, RoundManifest
from cloud_functions.recovery.rebuilding import Attempt
from cloud_functions.server_apps.message_list import load_messages, new_round
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState


def read_message_rounds(services: Services, origin: Run, run: Run | None) -> list[Attempt]:
    """Return every round of a run with a ServerApp, in order.

    Args:
        services: the ports.
        origin: the run as it was at any time.
        run: its row, if that exists and is not behind: it names the newest round.

    Raises:
        SettingsError: the bucket has no objects of a round that the run had.
    """
    found: list[Attempt] = []
    while run is None or len(found) < run.round:
        number = len(found) + 1
        one = _read_round(services, origin, number)
        if one is None and run is None:
            break
        if one is None:
            message = (
                f"round {number} of run {origin.name!r} cannot be rebuilt: the bucket lacks the list of its"
                f" messages {object_keys.messages(origin.name, number)}"
            )
            raise SettingsError(message)
        found.append(one)
    return found


def _read_round(services: Services, origin: Run, number: int) -> Attempt | None:
    stored = services.rounds.round(origin.name, number, 1)
    manifest = manifests.round_of(services, origin.name, number)
    if manifest and stored and not manifests.is_same(manifest.round, stored):
        return Attempt(manifest.round, lost=False, participants=manifest.participants, unknown=0, over=stored)
    if manifest:
        return _with_manifest(services, manifest, lost=stored is None)
    if stored:
        there = sum(1 for _ in services.rounds.participants(stored))
        return Attempt(stored, lost=False, participants=[], unknown=max(0, stored.asked - there))
    return _of_its_list(services, origin, number)


def _with_manifest(services: Services, manifest: RoundManifest, *, lost: bool) -> Attempt:
    """Return a closed round; in a table that was restored, rows of its participants may be older."""
    there = {part.device: part for part in services.rounds.participants(manifest.round)}
    if lost:
        missing = [part for part in manifest.participants if there.get(part.device) != part]
    else:
        missing = [part for part in manifest.participants if part.device not in there]
    return Attempt(manifest.round, lost=lost, participants=missing, unknown=0)


def _of_its_list(services: Services, origin: Run, number: int) -> Attempt | None:
    """Return the round of which only the list of its messages is left; None without a list."""
    if not services.bucket.exists(object_keys.messages(origin.name, number)):
        return None
    listed, sha256 = load_messages(services, origin.name, number)
    at = origin.started_at
    rebuilt = msgspec.structs.replace(
        new_round(origin, number, listed, sha256, at),
        state=State.ABANDONED,
        deadline_at=at,
        closed_at=at,
        announced_batches=1,
        reason=WITHOUT_MANIFEST,
    )
    there = {part.device for part in services.rounds.participants(rebuilt)}
    missing = [
        Participant(device=device, state=Participation.ASKED, announced_at=at)
        for device in listed.devices()
        if device not in there
    ]
    return Attempt(rebuilt, lost=True, participants=missing, unknown=0)


def is_behind_its_lists(services: Services, run: Run) -> bool:
    """Return whether the bucket has messages of later rounds than a run's row.

    The list of the next round may be there before the round is opened, but not that of the one after it.
    """
    return services.bucket.exists(object_keys.messages(run.name, run.round + 2))


def rebuilt_run(services: Services, created: Run, attempts: Sequence[Attempt]) -> Run:
    """Return a run with a ServerApp whose row was lost: it waits for the operator, and then its ServerApp.

    What has become of it since is not known.
    """
    published = 0
    for attempt in attempts:
        if not _is_published(services, attempt.round):
            break
        published = attempt.round.number
    return msgspec.structs.replace(
        created,
        state=RunState.PAUSED,
        reason="",
        ended_at=0,
        round=len(attempts),
        attempt=1 if attempts else 0,
        published=published,
    )


def _is_published(services: Services, ended: Round) -> bool:
    if ended.state is State.CLOSED:
        return services.bucket.exists(object_keys.round_manifest(ended.run, ended.number))
    return ended.state is State.ABANDONED
