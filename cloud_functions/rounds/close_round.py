"""The end of a round: refuse bad updates; close, reopen or abandon the round; compute its metrics.

Each step is a conditional write on the round's state and fence, so a caller whose lease was taken over
changes nothing. The next step publishes the result (publish.py).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cloud_functions.aggregation import collapse_check
from cloud_functions.aggregation.new_model import FinishedModel
from cloud_functions.monitoring import Metric
from cloud_functions.recovery import manifests
from cloud_functions.rounds.open_round import deadline_of
from cloud_functions.services import Services
from cloud_functions.statistics.statistics_files import is_last
from fedgrass import __version__
from fedgrass.federation import object_keys, round_metrics, training_settings
from fedgrass.federation.aggregation.means import example_cap_of_round
from fedgrass.federation.messages import message_fields
from fedgrass.federation.round_metrics import Report
from fedgrass.federation.rounds import (
    Event,
    Participant,
    Participation,
    Round,
    Work,
    explain,
    next_event,
    staleness_of,
    update_of,
)
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings

_MOST_REPORTED = 20  # devices whose capped claims are published; the round's manifest has all

MOST_METRICS_OF_A_ROUND = 100  # in its row, of 64 characters each; its manifest has all of them


def counted_replies(services: Services, round_: Round) -> list[Participant]:
    """Return the participants whose replies count, by device name."""
    return _replied(services.rounds.participants(round_))


def _replied(participants: Iterable[Participant]) -> list[Participant]:
    return [participant for participant in participants if participant.state is Participation.REPLIED]


def is_enough(settled: Round, now: int, *, overdue: bool) -> bool:
    """Return whether the replies in ``settled`` are enough to close the round."""
    event = next_event(settled, now, overdue=overdue)
    return event in {Event.ENOUGH_REPLIES, Event.DEADLINE_WITH_MINIMUM}


def reopen(services: Services, leased: Round, settled: Round) -> None:
    """Open a round again that lacks replies because some updates were refused."""
    reopened = services.rounds.move(leased, Event.TOO_FEW_GOOD_UPDATES)
    services.report(reopened, f"opened again: {explain(settled, Event.TOO_FEW_GOOD_UPDATES)}")


def refuse(services: Services, leased: Round, device: str, reason: str) -> None:
    """Refuse the update of a device and send it the verdict; the round continues without it.

    Raises:
        LostRace: another averager holds the lease.
    """
    services.rounds.refuse_update(leased, device, message_fields.shorten(reason))
    part = services.rounds.participant(leased, device) if leased.in_flight else None
    services.send_verdict(leased, device, refused=reason, answers=update_of(leased, part) if part else None)
    services.report(leased, f"update refused: {reason}", device=device)
    with services.log.about(leased.run, leased.number, device):
        services.log.measure(Metric.UPDATES_REFUSED, 1)


def abandon(services: Services, round_: Round, event: Event, reason: str = "") -> None:
    """Abandon a round, for ``reason`` or else for the reason that ``event`` implies.

    Raises:
        LostRace: the round has moved on, or another averager holds its lease.
    """
    reason = reason or explain(round_, event)
    abandoned = services.rounds.move(
        round_, event, reason=message_fields.shorten(reason), closed_at=services.now()
    )
    services.alarms.cancel(deadline_of(abandoned))
    services.report_end(abandoned, f"abandoned: {reason}")


def close(services: Services, run: Run, leased: Round, made: FinishedModel, good: int) -> None:
    """Close a round with the model that was drafted under its lease, the average of ``good`` updates."""
    closed_round, participants = _finish(services, run, leased, Event.MODEL_WRITTEN, made)
    key = object_keys.model(leased.run, leased.number)
    metrics = _metrics_text(closed_round, participants)
    ages = ""
    if closed_round.in_flight:
        ages = (
            f" that started {closed_round.staleness_mean:.3g} models before the newest on average,"
            f" {closed_round.staleness_max} at most"
        )
    services.report_end(closed_round, f"closed: {key} is the average of {good} updates{ages}{metrics}")


def close_evaluation(services: Services, run: Run, leased: Round) -> None:
    """Close a round of evaluation: combine the devices' metrics, and leave the model as it is."""
    made = FinishedModel(
        leased.base_sha256,
        leased.base_bytes,
        leased.base_download_sha256,
        leased.base_download_bytes,
        leased.base_carried,
        leased.full,
    )
    closed_round, participants = _finish(services, run, leased, Event.EVALUATED, made)
    metrics = _metrics_text(closed_round, participants)
    services.report_end(closed_round, f"closed: {closed_round.good} devices evaluated the model{metrics}")


def close_statistics(services: Services, run: Run, leased: Round, made: FinishedModel) -> None:
    """Close a round of statistics with the file that was drafted under its lease."""
    closed_round, _ = _finish(services, run, leased, Event.MERGED, made)
    what = "statistics" if is_last(run, leased) else "sketches, from which the histograms' edges were agreed,"
    services.report_end(closed_round, f"closed: {what} of {closed_round.good} devices were merged")


def close_messages(services: Services, run: Run, leased: Round) -> None:
    """Close a round of a ServerApp's messages; the replies are left to it."""
    closed_round, _ = _finish(services, run, leased, Event.ANSWERED, FinishedModel("", 0, "", 0, {}))
    figures = ", ".join(f"{name} {value:.4g}" for name, value in sorted(closed_round.metrics.items()))
    answered = f"{closed_round.good} of {closed_round.asked} devices answered {closed_round.aim}"
    services.report_end(closed_round, f"closed: {answered}{'; ' if figures else ''}{figures}")


def _finish(
    services: Services, run: Run, leased: Round, event: Event, made: FinishedModel
) -> tuple[Round, list[Participant]]:
    """Close a round with the model that the next one starts from; return it with its participants."""
    participants, settings = manifests.without_answers(services.rounds.participants(leased)), run.settings
    stored = services.rounds.run(leased.run)
    reports = round_metrics.reports(participants, settings.examples_cap)
    means = round_metrics.mean_metrics(reports)
    metrics = _limited_metrics(means, participants, settings.target_metric)
    replies = _replied(participants)
    cap = example_cap_of_round(leased, replies, settings.examples_cap)
    # Statistics are not weighted by claims of examples, and a ServerApp weights its replies itself.
    claims = [] if leased.work in {Work.STATISTICS, Work.MESSAGE} else replies
    over = round_metrics.over_claims(claims, cap, settings.examples_cap)
    result: dict[str, object] = {
        "closed_at": services.now(),
        "model_sha256": made.sha256,
        "model_bytes": made.bytes,
        "full": message_fields.shorten(made.full),
        "download_sha256": made.download_sha256,
        "download_bytes": made.download_bytes,
        "carried": made.carried,
        "metrics": metrics,
        "metrics_left_out": len(means) - len(metrics),
        "judged": _target_value(settings, reports),
        "example_cap": int(cap) if math.isfinite(cap) else 0,
        "capped": len(over),
        "averaging_seconds": (services.now() - leased.leased_at) / 1000,
        "code": f"fedgrass {__version__}",
        "collapse": collapse_check.warning(services, run, leased, participants) if leased.base else "",
    }
    if leased.in_flight:
        ages = [staleness_of(leased, reply) for reply in replies] or [0]
        result |= {"staleness_mean": math.fsum(ages) / len(ages), "staleness_max": max(ages)}
    if stored:  # if its row was lost a moment ago, the model shows `repair` that the round was closed
        manifests.draft_round(services, stored, leased, participants, result, means)
    closed_round = services.rounds.move(leased, event, **result)
    for device, text in sorted(over.items())[:_MOST_REPORTED]:
        services.report(closed_round, text, device=device)
    for line in closed_round.collapse.splitlines():
        services.report(closed_round, f"warning: {line}")
    return closed_round, participants


def _target_value(settings: RunSettings, reports: Mapping[str, Sequence[Report]]) -> dict[str, float]:
    """Return the value of the target metric by which the run may end; empty if there is none."""
    metric = settings.target_metric
    value = round_metrics.judged(
        reports.get(metric, ()), settings.target_by, lower_is_better=settings.lower_is_better
    )
    return {} if value is None else {metric: value}


def _metrics_text(closed_round: Round, participants: Iterable[Participant]) -> str:
    """Return the metrics of a round as text, each with the model that it was measured on.

    Devices measure the model that the round started from; the round's own model is measured in the next one.
    """
    trained = {name for participant in participants for name in participant.train_metrics}
    measured: dict[str, list[str]] = {}
    for name, value in sorted(closed_round.metrics.items()):
        subject = f"model {closed_round.base}"
        if closed_round.staleness_max:
            subject = f"models {closed_round.base - closed_round.staleness_max} to {closed_round.base}"
        if name in trained:
            subject = "the training"
        elif name.startswith(training_settings.LOCAL_PREFIX):
            subject = "the devices' own models"
        measured.setdefault(subject, []).append(f"{name} {value:.4g}")
    return "".join(f"; of {subject}: {', '.join(measures)}" for subject, measures in measured.items())


def _limited_metrics(
    means: Mapping[str, float], participants: Iterable[Participant], target: str
) -> dict[str, float]:
    """Return the metrics that fit into the round's row: ``target``, and those that most devices report.

    Devices choose the names of their metrics, up to 24 each. A thousand devices may thus have 24,000 names,
    and DynamoDB refuses rows of more than 400 KB.
    """
    if len(means) <= MOST_METRICS_OF_A_ROUND:
        return dict(means)
    count = Counter(name for participant in _replied(participants) for name in participant.reported)
    ranked = sorted(means, key=lambda name: (name != target, -count[name], name))
    return {name: means[name] for name in sorted(ranked[:MOST_METRICS_OF_A_ROUND])}
