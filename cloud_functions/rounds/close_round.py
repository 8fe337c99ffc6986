"""The end of a round: count or refuse its replies; close, reopen or abandon it; publish its model.

The caller holds the round's lease, or acts in its holder's place: each step is a conditional write on the
lease's number. The pointer to a task's latest global model is never turned back.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cloud_functions.aggregation import new_model
from cloud_functions.monitoring import Metric
from cloud_functions.recovery import manifests
from cloud_functions.rounds.open_round import deadline_of
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, round_metrics, topics, training_settings
from fedgrass.federation.aggregation.means import cap_of
from fedgrass.federation.errors import MessageError, UpdateRefused
from fedgrass.federation.messages import NewModel, message_fields
from fedgrass.federation.round_metrics import Report
from fedgrass.federation.rounds import (
    Event,
    Participant,
    Participation,
    Round,
    Work,
    explain,
    is_newer,
    next_event,
)
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings

_MOST_TOLD = 20  # devices whose claims are capped; the round's manifest has all

MOST_METRICS_OF_A_ROUND = 100  # in its row, of 64 characters each; its manifest has all of them


def counted(services: Services, of: Round) -> list[Participant]:
    """Return the replies that count, by their devices' names."""
    return [p for p in services.rounds.participants(of) if p.state is Participation.REPLIED]


def is_enough(settled: Round, now: int, *, overdue: bool) -> bool:
    """Return whether a round that would be OPEN as ``settled`` has what it takes to be closed."""
    event = next_event(settled, now, overdue=overdue)
    return event in {Event.ENOUGH_REPLIES, Event.DEADLINE_WITH_MINIMUM}


def reopen(services: Services, leased: Round, settled: Round) -> None:
    """Open a round again that lacks replies, now that some were refused."""
    reopened = services.rounds.move(leased, Event.TOO_FEW_GOOD_UPDATES)
    services.tell(reopened, f"opened again: {explain(settled, Event.TOO_FEW_GOOD_UPDATES)}")


def refuse(services: Services, leased: Round, device: str, reason: str) -> None:
    """Refuse an update by name; the round goes on without it. Raises LostRace if the lease is another's."""
    services.rounds.refuse_update(leased, device, message_fields.shorten(reason))
    services.tell(leased, f"update refused: {reason}", device=device)
    with services.log.about(leased.run, leased.number, device):
        services.log.measure(Metric.UPDATES_REFUSED, 1)


def give_up(services: Services, leased: Round, reason: str) -> None:
    """Abandon a round whose strategy failed. Raises LostRace if the lease is another's."""
    abandoned = services.rounds.move(
        leased, Event.AGGREGATION_FAILED, reason=message_fields.shorten(reason), closed_at=services.now()
    )
    services.alarms.cancel(deadline_of(abandoned))
    services.tell_end(abandoned, f"abandoned: {reason}")


def close(services: Services, run: Run, leased: Round, made: new_model.Made, good: int) -> None:
    """Close a round with the model that was drafted under its lease."""
    closed, participants = _finish(services, run, leased, Event.MODEL_WRITTEN, made)
    key = object_keys.model(leased.run, leased.number)
    figures = _figures(closed, participants)
    services.tell_end(closed, f"closed: {key} is the average of {good} updates{figures}")


def close_evaluation(services: Services, run: Run, leased: Round) -> None:
    """Put together what devices measured; the model stays the one that they measured."""
    made = new_model.Made(
        leased.base_sha256,
        leased.base_bytes,
        leased.base_download_sha256,
        leased.base_download_bytes,
        leased.base_carried,
    )
    closed, participants = _finish(services, run, leased, Event.EVALUATED, made)
    figures = _figures(closed, participants)
    services.tell_end(closed, f"closed: {closed.good} devices evaluated the model{figures}")


def _finish(
    services: Services, run: Run, leased: Round, event: Event, made: new_model.Made
) -> tuple[Round, list[Participant]]:
    """Close a round with the model that the next one starts from; return it with its participants."""
    participants, settings = list(services.rounds.participants(leased)), run.settings
    stored = services.rounds.run(leased.run)
    reports = round_metrics.reports(participants, settings.examples_cap)
    means = round_metrics.mean_metrics(reports)
    metrics = _with_room(means, participants, settings.target_metric)
    counted = [part for part in participants if part.state is Participation.REPLIED]
    cap = cap_of(leased, counted, settings.examples_cap)
    over = round_metrics.over_claims(counted, cap, settings.examples_cap)
    result: dict[str, object] = {
        "closed_at": services.now(),
        "model_sha256": made.sha256,
        "model_bytes": made.bytes,
        "download_sha256": made.download_sha256,
        "download_bytes": made.download_bytes,
        "carried": made.carried,
        "metrics": metrics,
        "metrics_left_out": len(means) - len(metrics),
        "judged": _judged(settings, reports),
        "example_cap": int(cap) if math.isfinite(cap) else 0,
        "capped": len(over),
        "averaging_seconds": (services.now() - leased.leased_at) / 1000,
    }
    if stored:  # else its row was lost a moment ago: the model tells `repair` that the round was closed
        manifests.draft_round(services, stored, leased, participants, result, means)
    closed = services.rounds.move(leased, event, **result)
    for device, text in sorted(over.items())[:_MOST_TOLD]:
        services.tell(closed, text, device=device)
    return closed, participants


def _judged(settings: RunSettings, reports: Mapping[str, Sequence[Report]]) -> dict[str, float]:
    """Return the target metric as the run's end is judged by it; empty if there is none."""
    metric = settings.target_metric
    value = round_metrics.judged(
        reports.get(metric, ()), settings.target_by, lower_is_better=settings.lower_is_better
    )
    return {} if value is None else {metric: value}


def _figures(closed: Round, participants: Iterable[Participant]) -> str:
    """Return the metrics of a round in words, each with what it was measured on.

    Devices measure the model that the round started from: the one that it made is measured in the next round.
    """
    trained = {name for part in participants for name in part.train_metrics}
    measured: dict[str, list[str]] = {}
    for name, value in sorted(closed.metrics.items()):
        subject = f"model {closed.base}"
        if name in trained:
            subject = "the training"
        elif name.startswith(training_settings.LOCAL_PREFIX):
            subject = "the devices' own models"
        measured.setdefault(subject, []).append(f"{name} {value:.4g}")
    return "".join(f"; of {subject}: {', '.join(measures)}" for subject, measures in measured.items())


def _with_room(
    means: Mapping[str, float], participants: Iterable[Participant], target: str
) -> dict[str, float]:
    """Return the metrics for which the round's row has room: ``target``, and those of the most devices.

    Devices name metrics as they like, each up to 24: a thousand devices may have 24,000 names, and DynamoDB
    refuses a row of more than 400 KB.
    """
    if len(means) <= MOST_METRICS_OF_A_ROUND:
        return dict(means)
    count = Counter(
        name for part in participants if part.state is Participation.REPLIED for name in part.reported
    )
    ranked = sorted(means, key=lambda name: (name != target, -count[name], name))
    return {name: means[name] for name in sorted(ranked[:MOST_METRICS_OF_A_ROUND])}


def conclude(services: Services, run: Run, closed: Round) -> None:
    """Publish what a closed round made: its model, and that it is the newest. Repeating it does no harm.

    Raises:
        RunBehind: the bucket has another end of that round; see manifests.py.
        DraftLost: the model, or what belongs to it, was lost before it was published.
    """
    services.alarms.cancel(deadline_of(closed))
    if closed.work is Work.TRAIN:
        # Before the manifest: `repair` takes a model without a manifest for a closed round, but cannot go on
        # from a manifest without its model, should this worker die in between and the table be restored.
        new_model.keep(services, run, closed)
    manifests.keep_round(services, closed)
    if closed.work is Work.EVALUATE:
        return
    news = NewModel(
        task=run.settings.task,
        run=run.name,
        round=closed.number,
        bucket=services.bucket.name,
        key=object_keys.model(run.name, closed.number),
        sha256=closed.model_sha256,
        bytes=closed.model_bytes,
        closed_at=closed.closed_at,
    )
    if make_newest(services, news):
        services.publisher.publish(
            [(topics.of_models(services.fleet, run.settings.task), messages.encode(news))]
        )


def make_newest(services: Services, model: NewModel) -> bool:
    """Make a model the newest of its task; return False if a newer one is that already.

    A worker may stall between closing a round and this, while others publish later models.
    """
    key, said = object_keys.latest_model(model.task), messages.encode(model)
    while True:
        stored, version = _stored(services, key)
        if stored and (stored.run, stored.round) == (model.run, model.round):
            return stored.sha256 == model.sha256  # of one round there is one model
        if stored and is_newer(stored, model):
            return False
        if services.bucket.write_over(key, said, version):
            return True


def _stored(services: Services, key: str) -> tuple[NewModel | None, str | None]:
    """Return what the pointer says, if it can be read, and the version of it."""
    try:
        said, version = services.bucket.read_version(key, messages.LARGEST_MESSAGE)
    except KeyError:
        return None, None
    except UpdateRefused as error:
        message = f"{error}: it should be the pointer to a task's newest model; remove it"
        raise MessageError(message) from error
    try:
        return messages.decode(said, NewModel), version
    except MessageError as error:
        services.log(f"{key} is written anew: {error}", "WARNING")
        return None, version
