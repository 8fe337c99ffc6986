"""Step three of a round: average the replies, one at a time, and publish the new global model."""

import math
from collections.abc import Iterable

import msgspec

from cloud_functions import manifests
from cloud_functions.cloud import Cloud
from cloud_functions.newest import make_newest
from cloud_functions.opening import deadline_of
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.aggregation import AGGREGATORS, Aggregator
from fedgrass.federation.errors import UpdateRefused
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
from fedgrass.federation.weights import (
    LARGEST_HEADER,
    Layout,
    check_finite,
    check_layout,
    checksum,
    encode,
    read_layout,
    sha256,
    views,
)


def aggregate(cloud: Cloud, run: Run, current: Round, event: Event, *, overdue: bool) -> None:
    """Take the lease of a round, average its good updates and close it.

    From here on no reply is counted, so whoever repeats this after a crash averages the same updates, in
    the same order, to the same bytes: the model is written once. The round is opened again if so many
    updates are refused that it has to wait for others.
    """
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
    layout = cloud.bucket.read_layout(object_keys.model(run.name, current.base))
    if event is Event.LEASE_EXPIRED and (written := _written_before(cloud, leased, layout)):
        # Its updates are not read again: one that has changed since must not count otherwise than it did.
        _close(cloud, leased, written, leased.good, began)
        return
    aggregator = AGGREGATORS[run.settings.aggregation]()
    refused = _add_updates(cloud, leased, layout, aggregator)
    settled = msgspec.structs.replace(leased, state=State.OPEN, refused=leased.refused + refused)
    if next_event(settled, cloud.now(), overdue=overdue) not in {
        Event.ENOUGH_REPLIES,
        Event.DEADLINE_WITH_MINIMUM,
    }:
        reopened = cloud.rounds.move(leased, Event.TOO_FEW_GOOD_UPDATES)
        cloud.tell(reopened, f"opened again: {explain(settled, Event.TOO_FEW_GOOD_UPDATES)}")
        return
    _close(cloud, leased, encode(aggregator.result()), settled.good, began)


def _written_before(cloud: Cloud, leased: Round, layout: Layout) -> bytes | None:
    """Return the model that an averager wrote before it died, if it came so far."""
    try:
        key = object_keys.model(leased.run, leased.number)
        return cloud.bucket.read(key, layout.data_bytes + LARGEST_HEADER)
    except KeyError:
        return None


def _add_updates(cloud: Cloud, leased: Round, layout: Layout, aggregator: Aggregator) -> int:
    """Add the updates in the order of the devices' names; return how many were refused."""
    refused = 0
    for participant in cloud.rounds.participants(leased):
        if participant.state is not Participation.REPLIED:
            continue
        try:
            _add(cloud, leased, participant, layout, aggregator)
        except UpdateRefused as error:
            refused += 1
            cloud.rounds.refuse_update(leased, participant.device, messages.shorten(str(error)))
            cloud.tell(leased, f"update refused: {error}", device=participant.device)
    return refused


def _add(cloud: Cloud, leased: Round, reply: Participant, model: Layout, aggregator: Aggregator) -> None:
    """Read one update, check it, add it, forget it."""
    key = object_keys.update(reply.device, leased.run, leased.number, leased.attempt)
    try:
        data = cloud.bucket.read(key, model.data_bytes + LARGEST_HEADER)
    except KeyError as error:
        message = f"there is no object {key} in the bucket"
        raise UpdateRefused(message) from error
    layout = read_layout(data, len(data))
    check_layout(layout, model)
    if checksum(data) != reply.checksum:
        message = f"the checksum of {key} is {checksum(data)}; the completion says {reply.checksum}"
        raise UpdateRefused(message)
    arrays = views(data, layout)
    check_finite(arrays)
    aggregator.add(arrays, reply.examples)


def _close(cloud: Cloud, leased: Round, model: bytes, good: int, began: int) -> None:
    key = object_keys.model(leased.run, leased.number)
    # An averager that died after this line wrote the same bytes; its object stays.
    stored = cloud.bucket.write_once(key, model)
    closed = _finish(cloud, leased, Event.MODEL_WRITTEN, (sha256(stored), len(stored)), began)
    cloud.tell_end(closed, f"closed: {key} is the average of {good} updates{_figures(closed)}")


def _close_evaluation(cloud: Cloud, leased: Round, began: int) -> None:
    """Put together what devices measured; the model stays the one that they measured."""
    model = (leased.base_sha256, leased.base_bytes)
    closed = _finish(cloud, leased, Event.EVALUATED, model, began)
    cloud.tell_end(closed, f"closed: {closed.good} devices evaluated model {closed.base}{_figures(closed)}")


def _finish(cloud: Cloud, leased: Round, event: Event, model: tuple[str, int], began: int) -> Round:
    """Close a round with the SHA-256 and the size of the model that the next one starts from."""
    participants = list(cloud.rounds.participants(leased))
    result: dict[str, object] = {
        "closed_at": cloud.now(),
        "model_sha256": model[0],
        "model_bytes": model[1],
        "metrics": mean_metrics(participants),
        "averaging_seconds": (cloud.now() - began) / 1000,
    }
    manifests.keep_round(cloud, leased, participants, result)
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
    """Make a closed round's model the newest of its task, and say so. Repeating it does no harm."""
    cloud.alarms.cancel(deadline_of(closed))
    if closed.work is Work.EVALUATE:
        return
    news = NewModel(
        task=run.settings.task,
        run=run.name,
        round=closed.number,
        bucket=cloud.bucket.name,
        key=object_keys.model(run.name, closed.number),
        sha256=closed.model_sha256,
        bytes=closed.model_bytes,
        closed_at=closed.closed_at,
    )
    if make_newest(cloud, news):
        cloud.publisher.publish([(topics.of_models(cloud.fleet, run.settings.task), messages.encode(news))])
