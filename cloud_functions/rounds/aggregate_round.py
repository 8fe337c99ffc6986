"""Step three of a round: average the good updates and publish the new global model.

One averager at a time holds the lease of a round. What it makes lies under ``drafts/`` by the number of its
lease (the round's ``fence``), until the round is closed by that same number: an averager that was overtaken
can write its draft and nothing else.
"""

import msgspec

from cloud_functions.aggregation import aggregation_context, new_model, partial_sums
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.aggregation.combiner import BadPartialSums
from cloud_functions.aggregation.update_reader import BadReplies
from cloud_functions.recovery import manifests
from cloud_functions.rounds import close_round, shards
from cloud_functions.services import Services
from fedgrass.federation.errors import AggregationFailed, LostRace, NotYet, RunBehind, UpdateRefused
from fedgrass.federation.messages import message_fields
from fedgrass.federation.rounds import Event, Participant, Round, State, Work, explain
from fedgrass.federation.runs import Run

MOST_LEASES = 6  # in a row: averagers that all die at a round would die at it for ever


def aggregate(services: Services, run: Run, current: Round, event: Event, *, overdue: bool) -> bool:
    """Take the lease of a round, average its good updates and close it.

    Return whether that is done; if not, other averagers are at it, and one of them closes the round.

    From here on no reply is counted, so whoever repeats this after a crash averages the same updates to the
    same bytes. The round is opened again if so many updates are refused that it has to wait for others, and
    abandoned if the strategy fails.
    """
    expired = current.expired + 1 if event is Event.LEASE_EXPIRED else 0
    if expired >= MOST_LEASES:
        close_round.give_up(services, current, _why_none_ended(current, expired))
        return True
    now = services.now()
    leased = services.rounds.move(
        current,
        event,
        fence=current.fence + 1,
        expired=expired,
        leased_at=now,
        lease_until=now + round(services.lease_seconds * 1000),
    )
    services.tell(leased, f"aggregating: {explain(current, event)}")
    try:
        return _close(services, run, leased, overdue=overdue)
    except (LostRace, NotYet):
        raise
    except Exception as error:
        note_failure(services, leased, error)
        raise


def _why_none_ended(current: Round, expired: int) -> str:
    """Return in words why several leases in a row ended without a model, as far as it is known."""
    if current.failure:
        return f"{expired} averagers in a row failed at the round, the last one with {current.failure}"
    return (
        f"{expired} averagers in a row did not end within their lease, and none reported an error: their"
        " function was stopped (its time-out or its memory does not suffice, see the averager's log)"
    )


def note_failure(services: Services, leased: Round, error: Exception) -> None:
    """Note in the round why an averager failed at it, so that the reason is known if all fail."""
    failure = message_fields.shorten(f"{type(error).__name__}: {error}", 300)
    try:
        services.rounds.note_failure(leased, failure)
    except Exception as other:  # noqa: BLE001  # what went wrong at first is what has to be known
        error.add_note(f"and it could not be noted in the round: {other}")


def _close(services: Services, run: Run, leased: Round, *, overdue: bool) -> bool:
    """Close a round under its lease, or give it up; return whether that is done."""
    try:
        manifests.check_not_behind(services, leased.run, leased.number)
        if leased.work is Work.EVALUATE:
            close_round.close_evaluation(services, run, leased)
            return True
        return _average(services, run, leased, overdue=overdue)
    except RunBehind as error:
        close_round.give_up(services, leased, str(error))
        raise
    except AggregationFailed as error:
        close_round.give_up(services, leased, str(error))
        return True


def make_again(services: Services, run: Run, closed: Round) -> bool:
    """Make the drafts of a closed round again that were lost; return whether they are as they were.

    The same updates make the same bytes, as long as they are still in the bucket.
    """
    replies = close_round.counted(services, closed)
    try:
        begun = aggregation_context.begin(services, run, closed)
        if cut := shards.of(begun):
            made = shards.join_again(begun, replies, len(cut))
        else:
            made = _made_here(begun, replies)
    except (AggregationFailed, BadReplies, UpdateRefused, KeyError) as error:
        services.log(f"model {closed.number} of {closed.run} cannot be made again: {error}", "ERROR")
        return False
    services.tell(closed, f"the drafts of model {closed.number} were lost and are made again")
    return (made.sha256, made.download_sha256) == (closed.model_sha256, closed.download_sha256)


def _average(services: Services, run: Run, leased: Round, *, overdue: bool) -> bool:
    """Average what is good, and again without what turns out to be bad; return whether that is done."""
    replies = close_round.counted(services, leased)
    refused = 0
    while close_round.is_enough(settled := _without(leased, refused), services.now(), overdue=overdue):
        try:
            made = _made(aggregation_context.begin(services, run, leased), replies)
        except BadReplies as bad:
            for device, reason in sorted(bad.refused.items()):
                close_round.refuse(services, leased, device, reason)
            refused += len(bad.refused)
            replies = [reply for reply in replies if reply.device not in bad.refused]
        else:
            if made:
                close_round.close(services, run, leased, made, settled.good)
            return made is not None
    close_round.reopen(services, leased, settled)
    return True


def _made(begun: AggregationContext, replies: list[Participant]) -> new_model.Made | None:
    """Make the model of some replies; None if it was handed over in shards. Raises BadReplies."""
    if cut := shards.of(begun):
        shards.hand_over(begun, replies, cut)
        return None
    return _made_here(begun, replies)


def _made_here(begun: AggregationContext, replies: list[Participant]) -> new_model.Made:
    """Make the model of some replies in this process. Raises BadReplies."""
    spoilt: dict[int, str] = {}
    while True:
        done = partial_sums.finished(begun.services, begun.round, replies, spoilt)
        summed = {device for group in done.values() for device in group.devices}
        rest = [reply for reply in replies if reply.device not in summed]
        if done:
            text = f"{len(summed)} updates were summed in {len(done)} groups, {len(rest)} are read"
            begun.services.tell(begun.round, text)
        try:
            return new_model.make(begun, rest, partial_sums.sums_of(begun, done))
        except BadPartialSums as bad:  # each time there is a group less
            found = {n: bad.refused[group.key] for n, group in done.items() if group.key in bad.refused}
            for number, text in found.items():
                begun.services.tell(begun.round, f"group {number} is of no use, its updates are read: {text}")
            spoilt |= found


def _without(leased: Round, refused: int) -> Round:
    """Return the round as it would be OPEN with so many more updates refused."""
    return msgspec.structs.replace(leased, state=State.OPEN, refused=leased.refused + refused)
