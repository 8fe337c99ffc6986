"""The file that a closed round of statistics leaves, copied from its draft once.

It is the query of the second round, which devices may read, or the merged statistics, which they may not.
"""

import msgspec

from cloud_functions.recovery import manifests
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.errors import RunBehind, UpdateRefused
from fedgrass.federation.rounds import Round
from fedgrass.federation.runs import Run
from fedgrass.federation.statistics.statistics_result import LARGEST_RESULT
from fedgrass.federation.weights import sha256


def is_last(run: Run, round_: Round) -> bool:
    """Return whether a round of statistics makes the result, not the query of another round."""
    return round_.number >= run.settings.rounds


def draft_key(run: Run, leased: Round) -> str:
    """Return the key of the draft of what a round leaves."""
    file = "statistics" if is_last(run, leased) else "query"
    return object_keys.draft(leased.run, leased.number, leased.attempt, leased.lease, file)


def kept_key(run: Run, closed_round: Round) -> str:
    """Return the permanent key of what a round leaves."""
    key = object_keys.statistics if is_last(run, closed_round) else object_keys.query
    return key(run.name, closed_round.number)


def forget_answers(services: Services, closed_round: Round) -> None:
    """Remove the answers of single devices from the table; their round was merged, and its file is kept."""
    answered = [
        msgspec.structs.replace(participant, answer="")
        for participant in services.rounds.participants(closed_round)
        if participant.answer
    ]
    if answered:
        services.rounds.restore_participants(closed_round, answered, over=True)


def keep_file(services: Services, run: Run, closed_round: Round) -> str:
    """Copy the draft of a closed round to its permanent key, once.

    Returns:
        Which draft is lost, with no object at its permanent key; empty if the file is kept.

    Raises:
        RunBehind: the bucket has another file of that round.
    """
    source, target = draft_key(run, closed_round), kept_key(run, closed_round)
    try:
        if services.bucket.copy_once(source, target):
            return ""
        found = sha256(services.bucket.read(target, LARGEST_RESULT))
    except KeyError:
        try:
            found = sha256(services.bucket.read(target, LARGEST_RESULT))
        except KeyError:
            return f"the draft {source} is gone, and {target} is not there"
    except UpdateRefused as error:
        found = str(error)
    if found != closed_round.model_sha256:
        raise RunBehind(manifests.behind(closed_round.run, target))
    return ""
