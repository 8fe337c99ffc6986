"""Averages the good updates of a round into the new global model.

One averager at a time holds the lease of a round. Its files are drafts, stored under ``drafts/`` by the name
of its lease (``Round.lease``), until the round is closed under that lease. An averager whose lease was taken
over can therefore write drafts, and nothing else.
"""

import msgspec

from cloud_functions.aggregation import aggregation_context, new_model, partial_sums
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.aggregation.combiner import BadPartialSums
from cloud_functions.aggregation.update_reader import BadUpdates
from cloud_functions.recovery import manifests
from cloud_functions.rounds import close_round, shards
from cloud_functions.services import Services
from cloud_functions.statistics import merge_round
from fedgrass.federation.errors import AggregationFailed, LostRace, NotYet, RunBehind, UpdateRefused
from fedgrass.federation.messages import message_fields
from fedgrass.federation.rounds import Event, Participant, Round, State, Work, explain
from fedgrass.federation.runs import Run

MOST_LEASES = 6  # in a row that expire, before the round is abandoned as one at which averagers crash


def aggregate(services: Services, run: Run, round_: Round, event: Event, *, overdue: bool) -> bool:
    """Take the lease of a round, average its good updates and close it.

    Under the lease no more replies are counted, so repeating this after a crash averages the same updates to
    the same bytes. The round is reopened if refused updates leave it with too few, and abandoned if the
    strategy fails.

    The round is OPEN or has an expired lease. ``event`` is why it is aggregated now; it is ``overdue`` if the
    alarm of its deadline has fired.

    Returns:
        Whether the round was closed, reopened or abandoned; False if it was divided among other averagers,
        the last of which closes it.
    """
    expired = round_.expired + 1 if event is Event.LEASE_EXPIRED else 0
    if expired >= MOST_LEASES:
        close_round.abandon(services, round_, Event.AGGREGATION_FAILED, _why_all_failed(round_, expired))
        return True
    now = services.now()
    leased = services.rounds.move(
        round_,
        event,
        fence=round_.fence + 1,
        expired=expired,
        leased_at=now,
        lease_until=now + round(services.lease_seconds * 1000),
    )
    if leased.work is not Work.MESSAGE:  # it is closed at once: nothing is aggregated
        services.report(leased, f"aggregating: {explain(round_, event)}")
    try:
        return _aggregate_leased(services, run, leased, overdue=overdue)
    except (LostRace, NotYet):
        raise
    except Exception as error:
        note_failure(services, leased, error)
        raise


def _why_all_failed(round_: Round, expired: int) -> str:
    """Return why several leases in a row expired without a model, as far as that is known."""
    if round_.failure:
        return f"{expired} averagers in a row failed at the round, the last one with {round_.failure}"
    return (
        f"{expired} averagers in a row did not end within their lease, and none reported an error: their"
        " function was stopped (its time-out or its memory does not suffice, see the averager's log)"
    )


def note_failure(services: Services, leased: Round, error: Exception) -> None:
    """Store in the round why an averager failed at it, so that the reason is known if all of them fail."""
    failure = message_fields.shorten(f"{type(error).__name__}: {error}", 300)
    try:
        services.rounds.note_failure(leased, failure)
    except Exception as other:  # noqa: BLE001 - the first error is the one to raise
        error.add_note(f"and it could not be noted in the round: {other}")


def _aggregate_leased(services: Services, run: Run, leased: Round, *, overdue: bool) -> bool:
    """Average or evaluate a leased round and close it, or abandon it; return whether that is done."""
    has_model = leased.work is not Work.MESSAGE
    if behind := manifests.why_behind(services, leased.run, leased.number, has_model=has_model):
        close_round.abandon(services, leased, Event.AGGREGATION_FAILED, behind)
        raise RunBehind(behind)  # for the driver, which pauses the run
    try:
        if leased.work is Work.EVALUATE:
            close_round.close_evaluation(services, run, leased)
            return True
        if leased.work is Work.MESSAGE:
            close_round.close_messages(services, run, leased)
            return True
        if leased.work is Work.STATISTICS:
            return _merge_statistics(services, run, leased, overdue=overdue)
        return _average(services, run, leased, overdue=overdue)
    except AggregationFailed as error:
        close_round.abandon(services, leased, Event.AGGREGATION_FAILED, str(error))
        return True


def _average(services: Services, run: Run, leased: Round, *, overdue: bool) -> bool:
    """Average the replies, and again without those whose updates are bad; return whether that is done."""
    replies = close_round.counted_replies(services, leased)
    refused = 0
    while close_round.is_enough(
        settled := msgspec.structs.replace(leased, state=State.OPEN, refused=leased.refused + refused),
        services.now(),
        overdue=overdue,
    ):
        if not replies:
            _check_lease(services, leased)
        try:
            made = _make(aggregation_context.begin(services, run, leased), replies)
        except BadUpdates as bad:
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


def _merge_statistics(services: Services, run: Run, leased: Round, *, overdue: bool) -> bool:
    """Merge the answers of the replies and close the round, or reopen it if too few can be merged."""
    merged = merge_round.merge_answers(services, leased)
    for device, reason in sorted(merged.refused.items()):
        close_round.refuse(services, leased, device, reason)
    settled = msgspec.structs.replace(leased, state=State.OPEN, refused=leased.refused + len(merged.refused))
    if close_round.is_enough(settled, services.now(), overdue=overdue):
        close_round.close_statistics(services, run, leased, merge_round.draft(services, run, leased, merged))
    else:
        close_round.reopen(services, leased, settled)
    return True


def _check_lease(services: Services, leased: Round) -> None:
    """Find out why a leased round has no reply to average.

    Raises:
        LostRace: the lease was taken over, and the other averager has refused the replies.
        AggregationFailed: the table has lost them.
    """
    stored = services.rounds.round(leased.run, leased.number, leased.attempt)
    if stored is None or (stored.state, stored.fence) != (leased.state, leased.fence):
        raise LostRace(leased.run)
    message = f"the round counts {leased.good} good replies, and none of them is stored"
    raise AggregationFailed(message)


def _make(context: AggregationContext, replies: list[Participant]) -> new_model.FinishedModel | None:
    """Make the model of some replies; return None if it was divided among others. Raises BadUpdates."""
    if cut := shards.of(context):
        shards.hand_over(context, replies, cut)
        return None
    return _make_here(context, replies)


def _make_here(context: AggregationContext, replies: list[Participant]) -> new_model.FinishedModel:
    """Make the model of some replies in this process, from partial sums where there are any.

    If a partial sum cannot be used, the updates in it are read instead.

    Raises:
        BadUpdates: some updates must not enter the average.
    """
    unusable: dict[int, str] = {}
    while True:
        sums = partial_sums.finished_groups(context.services, context.round, replies, unusable)
        summed = {device for group in sums.values() for device in group.devices}
        rest = [reply for reply in replies if reply.device not in summed]
        if sums:
            text = f"{len(summed)} updates were summed in {len(sums)} groups, {len(rest)} are read"
            context.services.report(context.round, text)
        try:
            return new_model.make(context, rest, partial_sums.sums_of(context, sums))
        except BadPartialSums as bad:  # the loop ends: each pass has at least one partial sum fewer
            found = {n: bad.refused[group.key] for n, group in sums.items() if group.key in bad.refused}
            for number, reason in found.items():
                context.services.report(
                    context.round, f"the sum of group {number} cannot be used, its updates are read: {reason}"
                )
            unusable |= found


def make_again(services: Services, run: Run, closed_round: Round) -> bool:
    """Make the lost drafts of a closed round again; return whether they have the same bytes as before.

    They have if the bucket still has all updates: the same updates make the same bytes.
    """
    if closed_round.work is Work.STATISTICS:
        return merge_round.merged_again(services, run, closed_round)
    replies = close_round.counted_replies(services, closed_round)
    try:
        context = aggregation_context.begin(services, run, closed_round)
        if cut := shards.of(context):
            made = shards.join_again(context, replies, len(cut))
        else:
            made = _make_here(context, replies)
    except (AggregationFailed, BadUpdates, UpdateRefused, KeyError) as error:
        services.log(
            f"model {closed_round.number} of {closed_round.run} cannot be made again: {error}", "ERROR"
        )
        return False
    services.report(closed_round, f"the drafts of model {closed_round.number} were lost and are made again")
    return (made.sha256, made.download_sha256) == (closed_round.model_sha256, closed_round.download_sha256)
