"""Step three of a round: average the good updates and publish the new global model.

One averager at a time holds the lease of a round. What it makes lies under ``drafts/`` by the number of its
lease (the round's ``fence``), until the round is closed by that same number: an averager that was overtaken
can write its draft and nothing else.
"""

import math
from collections.abc import Iterable

import msgspec

from cloud_functions import manifests, new_model
from cloud_functions.cloud import Cloud
from cloud_functions.combining import BadUpdates
from cloud_functions.opening import deadline_of
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.errors import AggregationFailed
from fedgrass.federation.messages import NewModel
from fedgrass.federation.rounds import (
    Event,
    Participant,
    Participation,
    Round,
    State,
    Work,
    explain,
    next_event,
)
from fedgrass.federation.runs import Run

MOST_LEASES = 4  # of one round: averagers that all die at it would die at it for ever


def aggregate(cloud: Cloud, run: Run, current: Round, event: Event, *, overdue: bool) -> None:
    """Take the lease of a round, average its good updates and close it.

    From here on no reply is counted, so whoever repeats this after a crash averages the same updates to the
    same bytes. The round is opened again if so many updates are refused that it has to wait for others, and
    abandoned if the strategy fails.
    """
    if event is Event.LEASE_EXPIRED and current.fence >= MOST_LEASES:
        died = f"{run.settings.aggregation!r} did not end within the averager's time, {MOST_LEASES} times"
        _give_up(cloud, current, f"aggregation {died}")
        return
    leased = cloud.rounds.move(
        current,
        event,
        fence=current.fence + 1,
        lease_until=cloud.now() + round(cloud.lease_seconds * 1000),
    )
    cloud.tell(leased, f"aggregating: {explain(current, event)}")
    began = cloud.now()
    if leased.work is Work.EVALUATE:
        _close_evaluation(cloud, leased, began)
        return
    try:
        _average(cloud, run, leased, began, overdue=overdue)
    except AggregationFailed as error:
        _give_up(cloud, leased, messages.shorten(str(error)))


def _average(cloud: Cloud, run: Run, leased: Round, began: int, *, overdue: bool) -> None:
    """Average what is good, and again without what turns out to be bad."""
    replies = [p for p in cloud.rounds.participants(leased) if p.state is Participation.REPLIED]
    refused = 0
    while _enough(settled := _without(leased, refused), cloud.now(), overdue=overdue):
        try:
            made = new_model.make(cloud, run, leased, replies)
        except BadUpdates as bad:
            for place, reason in sorted(bad.refused.items()):
                refuse(cloud, leased, replies[place].device, reason)
            refused += len(bad.refused)
            replies = [reply for place, reply in enumerate(replies) if place not in bad.refused]
        else:
            _close(cloud, leased, made, settled.good, began)
            return
    reopened = cloud.rounds.move(leased, Event.TOO_FEW_GOOD_UPDATES)
    cloud.tell(reopened, f"opened again: {explain(settled, Event.TOO_FEW_GOOD_UPDATES)}")


def _without(leased: Round, refused: int) -> Round:
    """Return the round as it would be OPEN with so many more updates refused."""
    return msgspec.structs.replace(leased, state=State.OPEN, refused=leased.refused + refused)


def _enough(settled: Round, now: int, *, overdue: bool) -> bool:
    event = next_event(settled, now, overdue=overdue)
    return event in {Event.ENOUGH_REPLIES, Event.DEADLINE_WITH_MINIMUM}


def refuse(cloud: Cloud, leased: Round, device: str, reason: str) -> None:
    """Refuse an update by name; the round goes on without it. Raises LostRace if the lease is another's."""
    cloud.rounds.refuse_update(leased, device, messages.shorten(reason))
    cloud.tell(leased, f"update refused: {reason}", device=device)


def _give_up(cloud: Cloud, leased: Round, reason: str) -> None:
    abandoned = cloud.rounds.move(
        leased, Event.AGGREGATION_FAILED, reason=messages.shorten(reason), closed_at=cloud.now()
    )
    cloud.alarms.cancel(deadline_of(abandoned))
    cloud.tell(abandoned, f"abandoned: {reason}")


def _close(cloud: Cloud, leased: Round, made: new_model.Made, good: int, began: int) -> None:
    closed = _finish(cloud, leased, Event.MODEL_WRITTEN, made, began)
    key = object_keys.model(leased.run, leased.number)
    cloud.tell(closed, f"closed: {key} is the average of {good} updates{_figures(closed)}")


def _close_evaluation(cloud: Cloud, leased: Round, began: int) -> None:
    """Put together what devices measured; the model stays the one that they measured."""
    made = new_model.Made(
        leased.base_sha256, leased.base_bytes, leased.base_download_sha256, leased.base_download_bytes
    )
    closed = _finish(cloud, leased, Event.EVALUATED, made, began)
    cloud.tell(closed, f"closed: {closed.good} devices evaluated model {closed.base}{_figures(closed)}")


def _finish(cloud: Cloud, leased: Round, event: Event, made: new_model.Made, began: int) -> Round:
    """Close a round with the model that the next one starts from."""
    participants = list(cloud.rounds.participants(leased))
    result: dict[str, object] = {
        "closed_at": cloud.now(),
        "model_sha256": made.sha256,
        "model_bytes": made.bytes,
        "download_sha256": made.download_sha256,
        "download_bytes": made.download_bytes,
        "metrics": mean_metrics(participants),
        "averaging_seconds": (cloud.now() - began) / 1000,
    }
    manifests.draft_round(cloud, leased, participants, result)
    return cloud.rounds.move(leased, event, **result)


def _figures(closed: Round) -> str:
    return "".join(f", {name} {value:.4g}" for name, value in sorted(closed.metrics.items()))


def mean_metrics(participants: Iterable[Participant]) -> dict[str, float]:
    """Return what the counted devices measured, each metric weighted by their examples.

    ``loss`` and ``accuracy`` are of the global model before the round, ``train_loss`` of the local models.
    """
    found: dict[str, list[tuple[float, int]]] = {}
    for participant in participants:
        if participant.state is Participation.REPLIED:
            for name, value in participant.metrics.items():
                found.setdefault(name, []).append((value, participant.examples))
    means = {}
    for name, measured in found.items():
        examples = sum(count for _, count in measured)
        # Each share of the whole is taken first: no sum of finite metrics becomes infinite by the way.
        means[name] = math.fsum(value * (count / examples) for value, count in measured)
    return means


def conclude(cloud: Cloud, run: Run, closed: Round) -> None:
    """Publish what a closed round made: its model, and that it is the newest. Repeating it does no harm."""
    cloud.alarms.cancel(deadline_of(closed))
    manifests.keep_round(cloud, closed)
    if closed.work is Work.EVALUATE:
        return
    new_model.keep(cloud, run, closed)
    news = messages.encode(
        NewModel(
            task=run.settings.task,
            run=run.name,
            round=closed.number,
            bucket=cloud.bucket.name,
            key=object_keys.model(run.name, closed.number),
            sha256=closed.model_sha256,
            bytes=closed.model_bytes,
        )
    )
    cloud.bucket.write(object_keys.latest_model(run.settings.task), news)
    cloud.publisher.publish([(topics.of_models(cloud.fleet, run.settings.task), news)])
