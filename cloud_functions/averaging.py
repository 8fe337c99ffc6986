"""Step three of a round: average the good updates and publish the new global model.

One averager at a time holds the lease of a round. What it makes lies under ``drafts/`` by the number of its
lease (the round's ``fence``), until the round is closed by that same number: an averager that was overtaken
can write its draft and nothing else.
"""

import msgspec

from cloud_functions import closing, groups, making, new_model, shards
from cloud_functions.cloud import Cloud
from cloud_functions.combining import BadSums
from cloud_functions.making import BadReplies, Making
from fedgrass.federation.errors import AggregationFailed
from fedgrass.federation.rounds import Event, Participant, Round, State, Work, explain
from fedgrass.federation.runs import Run

MOST_LEASES = 6  # in a row: averagers that all die at a round would die at it for ever


def aggregate(cloud: Cloud, run: Run, current: Round, event: Event, *, overdue: bool) -> bool:
    """Take the lease of a round, average its good updates and close it.

    Return whether that is done; if not, other averagers are at it, and one of them closes the round.

    From here on no reply is counted, so whoever repeats this after a crash averages the same updates to the
    same bytes. The round is opened again if so many updates are refused that it has to wait for others, and
    abandoned if the strategy fails.
    """
    expired = current.expired + 1 if event is Event.LEASE_EXPIRED else 0
    if expired >= MOST_LEASES:
        died = f"{run.settings.aggregation!r} did not end within the averager's time, {expired} times running"
        why = "the averager's log says why: too slow, too little memory, or a service that does not answer"
        closing.give_up(cloud, current, f"aggregation {died} ({why})")
        return True
    now = cloud.now()
    leased = cloud.rounds.move(
        current,
        event,
        fence=current.fence + 1,
        expired=expired,
        leased_at=now,
        lease_until=now + round(cloud.lease_seconds * 1000),
    )
    cloud.tell(leased, f"aggregating: {explain(current, event)}")
    if leased.work is Work.EVALUATE:
        closing.close_evaluation(cloud, leased)
        return True
    try:
        return _average(cloud, run, leased, overdue=overdue)
    except AggregationFailed as error:
        closing.give_up(cloud, leased, str(error))
        return True


def _average(cloud: Cloud, run: Run, leased: Round, *, overdue: bool) -> bool:
    """Average what is good, and again without what turns out to be bad; return whether that is done."""
    replies = closing.counted(cloud, leased)
    refused = 0
    while closing.is_enough(settled := _without(leased, refused), cloud.now(), overdue=overdue):
        try:
            made = _made(making.begin(cloud, run, leased), replies)
        except BadReplies as bad:
            for device, reason in sorted(bad.refused.items()):
                closing.refuse(cloud, leased, device, reason)
            refused += len(bad.refused)
            replies = [reply for reply in replies if reply.device not in bad.refused]
        else:
            if made:
                closing.close(cloud, leased, made, settled.good)
            return made is not None
    closing.reopen(cloud, leased, settled)
    return True


def _made(begun: Making, replies: list[Participant]) -> new_model.Made | None:
    """Make the model of some replies; None if it was handed over in shards. Raises BadReplies."""
    if cut := shards.of(begun):
        shards.hand_over(begun, replies, cut)
        return None
    spoilt: dict[int, str] = {}
    while True:
        done = groups.finished(begun.cloud, begun.round, replies, spoilt)
        summed = {device for group in done.values() for device in group.devices}
        rest = [reply for reply in replies if reply.device not in summed]
        if done:
            text = f"{len(summed)} updates were summed in {len(done)} groups, {len(rest)} are read"
            begun.cloud.tell(begun.round, text)
        try:
            return new_model.make(begun, rest, groups.sums_of(begun, done))
        except BadSums as bad:  # each time there is a group less
            found = {list(done)[place]: text for place, text in bad.refused.items()}
            for number, text in found.items():
                begun.cloud.tell(begun.round, f"group {number} is of no use, its updates are read: {text}")
            spoilt |= found


def _without(leased: Round, refused: int) -> Round:
    """Return the round as it would be OPEN with so many more updates refused."""
    return msgspec.structs.replace(leased, state=State.OPEN, refused=leased.refused + refused)
