"""The trace of one attempt at a round, as spans of the cloud and of its devices.

    round                     from the choice of the cohort until the model is published
      select                  the cohort is chosen
      announce                its announcements are published; their trace context names this span
        train (device)        per device, from its announcement to the receipt of its reply
          prepare, download, evaluate, train, evaluate_local, upload
      collect                 replies are awaited
      average                 the new model is made, under the last averager's lease
      publish                 the model is copied to its key

All is made from rows of the tables, so no function and no device has to reach a collector, and every export
of a round has the same ids (trace_context.py). Times of the cloud's spans are the cloud's. Of the parts of a
device, the durations are the device's; where they lie is an estimate, with an uncertainty in its attributes.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.tracking.tracked_run import Key, TrackedRun
from fedgrass.federation.messages.trace_context import (
    ANNOUNCE,
    TOTAL,
    parse_timeline,
    placed_at,
    span_id,
    trace_id,
)
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work, announced_at

_ROUND = "round"
_RESULT: Mapping[Work, str] = MappingProxyType(
    {
        Work.TRAIN: "average",
        Work.EVALUATE: "combine evaluations",
        Work.STATISTICS: "merge statistics",
        Work.MESSAGE: "gather replies",
    }
)
# What a device's reply is worth to the round: an error in the trace, with the device's reason.
_ERRORS = frozenset(
    {
        Participation.FAILED,
        Participation.REFUSED,
        Participation.SILENT,
        Participation.LATE,
        Participation.OVERDUE,
        Participation.STALE,
    }
)
_DURATIONS = ("download", "evaluate", "train", "upload")  # of a completion, in the order of the work

Attribute = str | int | float | bool
Kind = Literal["internal", "producer", "consumer"]


class Span(Struct, frozen=True, kw_only=True):
    """A span. Times are in milliseconds since the epoch."""

    trace: str
    span: str
    parent: str = ""
    name: str
    start: float
    end: float
    device: str = ""  # whose span it is; empty: the cloud's
    kind: Kind = "internal"
    attributes: Mapping[str, Attribute] = {}
    error: str | None = None  # why it failed; None: it did not
    link: tuple[str, str] | None = None  # trace and span of another round that it belongs to as well


def round_spans(
    tracked: TrackedRun, record: RoundRecord, opened_at: Mapping[Key, int], published_at: int = 0
) -> Iterator[Span]:
    """Yield the spans of an ended attempt at a round.

    Args:
        tracked: the run.
        record: the round with its participants.
        opened_at: when earlier rounds were opened: in a buffered run devices reply to their announcements.
        published_at: when the model was published, in milliseconds since the epoch; 0: unknown, or none was.
    """
    round_ = record.round
    trace = _trace_of(tracked, round_.number, round_.attempt, round_.opened_at)
    yield from _cloud_spans(tracked, round_, trace, published_at)
    for part in record.participants:
        if part.state is Participation.CARRIED:  # it is among the participants of the round that counted it
            continue
        own, link = trace, None
        if part.from_round:
            key = (part.from_round, part.from_attempt)
            if key not in opened_at:
                continue
            own, link = _trace_of(tracked, *key, opened_at[key]), (trace, span_id(trace, _ROUND))
        yield from _device_spans(tracked, round_, part, own, link)


def _trace_of(tracked: TrackedRun, number: int, attempt: int, opened_at: int) -> str:
    return trace_id(tracked.fleet, tracked.run.name, number, attempt, opened_at)


def _cloud_spans(tracked: TrackedRun, round_: Round, trace: str, published_at: int) -> Iterator[Span]:
    began = round_.choosing_at or round_.opened_at
    opened, closed = round_.opened_at, max(round_.closed_at, round_.opened_at)
    announced = min(max(opened, began + round(round_.opening_seconds * 1000)), closed)
    averaging = round_.leased_at if opened <= round_.leased_at <= closed else 0
    top = span_id(trace, _ROUND)

    def child(name: str, start: float, end: float, kind: Kind = "internal", **counts: Attribute) -> Span:
        attributes = {f"fedgrass.{key}": value for key, value in counts.items()}
        return Span(
            trace=trace,
            span=span_id(trace, name),
            parent=top,
            name=name,
            start=start,
            end=max(start, end),
            kind=kind,
            attributes=attributes,
        )

    yield Span(
        trace=trace,
        span=top,
        name=_ROUND,
        start=began,
        end=max(closed, published_at),
        attributes=_attributes(tracked, round_),
        error=(round_.reason or "abandoned") if round_.state is State.ABANDONED else None,
    )
    if round_.choosing_at:
        yield child("select", began, opened, asked=round_.asked)
    yield child(ANNOUNCE, opened, announced, "producer", asked=round_.asked, batches=round_.batches)
    yield child("collect", announced, averaging or closed, replied=round_.replied, needed=round_.needed)
    if round_.state is not State.CLOSED:
        return
    if averaging:
        yield child(
            _RESULT[round_.work],
            averaging,
            closed,
            good=round_.good,
            refused=round_.refused,
            leases=round_.fence,
        )
    if published_at:
        yield child("publish", closed, published_at, bytes=round_.model_bytes, sha256=round_.model_sha256)


def _attributes(tracked: TrackedRun, round_: Round) -> dict[str, Attribute]:
    metrics = {f"fedgrass.metric.{name}": value for name, value in round_.metrics.items()}
    return {
        "fedgrass.run": round_.run,
        "fedgrass.round": round_.number,
        "fedgrass.attempt": round_.attempt,
        "fedgrass.work": str(round_.work),
        "fedgrass.task": tracked.run.settings.task,
        "fedgrass.stack": tracked.stack,
        "fedgrass.state": str(round_.state),
        "fedgrass.base": round_.base,
        "fedgrass.asked": round_.asked,
        "fedgrass.replied": round_.replied,
        "fedgrass.refused": round_.refused,
        "fedgrass.declined": round_.declined,
        "fedgrass.failed": round_.failed,
        "fedgrass.silent": round_.silent,
        "fedgrass.late": round_.late,
        "fedgrass.bytes_up": round_.bytes_up,
        "fedgrass.bytes_down": round_.bytes_down,
        **metrics,
    }


def _device_spans(
    tracked: TrackedRun, round_: Round, part: Participant, trace: str, link: tuple[str, str] | None
) -> Iterator[Span]:
    start = announced_at(round_, part)
    end = max(start, part.received_at or round_.closed_at)
    placed, parts = _parts(part, start, end)
    whole = span_id(trace, _ROUND, part.device)
    attributes: dict[str, Attribute] = {
        "fedgrass.run": round_.run,
        "fedgrass.round": part.from_round or round_.number,
        "fedgrass.device": part.device,
        "fedgrass.task": tracked.run.settings.task,
        "fedgrass.state": str(part.state),
        "fedgrass.examples": part.examples,
        "fedgrass.bytes": part.bytes,
        **placed,
    }
    if part.reason:
        attributes["fedgrass.reason"] = part.reason
    if not part.received_at:  # the time of a status is not stored: it failed or declined at some time before
        attributes["fedgrass.end"] = "unknown, at the latest that of the round"
    yield Span(
        trace=trace,
        span=whole,
        parent=span_id(trace, ANNOUNCE),
        name=f"{round_.work} on device",
        start=start,
        end=end,
        device=part.device,
        kind="consumer",
        attributes=attributes,
        error=(part.reason or str(part.state).lower()) if part.state in _ERRORS else None,
        link=link,
    )
    for name, (first, last) in parts.items():
        yield Span(
            trace=trace,
            span=span_id(trace, name, part.device),
            parent=whole,
            name=name,
            start=first,
            end=last,
            device=part.device,
        )


def _parts(
    part: Participant, start: float, end: float
) -> tuple[dict[str, Attribute], dict[str, tuple[float, float]]]:
    """Return attributes on how a device's parts were timed, and their times by the cloud's clock.

    Without a timeline (an older device, a run without ``trace``, a device that was restarted) the durations
    of the completion are laid end to end before the reply.
    """
    if not part.received_at:
        return {}, {}
    if timeline := parse_timeline(part.timeline):
        total = timeline.pop(TOTAL)[1]
        begins_at, uncertainty = placed_at(round(start), part.received_at, total)
        attributes: dict[str, Attribute] = {
            "fedgrass.timing": "timeline",
            "fedgrass.uncertainty_ms": uncertainty,
        }
        # A clock that runs fast, or a device that lies, has more time than there was: within the span anyway.
        return attributes, {
            name: (min(begins_at + first, end), min(begins_at + last, end))
            for name, (first, last) in timeline.items()
        }
    found: dict[str, tuple[float, float]] = {}
    last = end
    for name in reversed(_DURATIONS):
        seconds = getattr(part, f"{name}_seconds")
        if seconds:
            found[name] = (max(start, last - seconds * 1000), last)
            last = found[name][0]
    return {"fedgrass.timing": "durations"}, dict(reversed(found.items()))
