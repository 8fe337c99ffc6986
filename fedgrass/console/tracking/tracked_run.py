"""What a sink receives: a run with its settings, the figures of its rounds, and its models."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from fedgrass.console.runs import history
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.runs.run_display import differing_settings
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings

# Of a round's summary, in the order in which sinks show them; the devices' metrics come in addition.
_FIGURES = (
    *("asked", "accepted", "replied", "refused", "declined", "failed", "silent", "late", "attempt", "base"),
    *("overdue", "stale", "wasted", "staleness_mean", "staleness_max"),
    *("seconds", "opening_seconds", "averaging_seconds"),
    *("turnaround_median_seconds", "turnaround_slowest_seconds", "bytes_up", "bytes_down"),
)
_OF_BUFFERS = frozenset({"overdue", "stale", "wasted", "staleness_mean", "staleness_max"})

Key = tuple[int, int]  # round and attempt


class TrackedRun(Struct, frozen=True, kw_only=True):
    """A run of one stack."""

    fleet: str
    stack: str
    bucket: str
    run: Run
    aliases: Mapping[str, int] = {}  # numbers of the run's models that aliases name, such as ``production``

    @property
    def id(self) -> str:
        """The identity of the run: neither another stack nor a later run of the same name has it."""
        return f"{self.bucket}/{self.run.name}/{self.run.started_at}"

    @property
    def registry_name(self) -> str:
        """The name of the run's task in a model registry, such as ``garden-digits``."""
        return f"{self.fleet}-{self.run.settings.task}".replace(":", "-").replace("_", "-").rstrip("-")


class TrackedRound(Struct, frozen=True, kw_only=True):
    """One ended attempt at a round."""

    record: RoundRecord
    summary: Mapping[str, Any]  # as in history.json

    @property
    def key(self) -> Key:
        """Round and attempt."""
        return self.record.round.number, self.record.round.attempt

    @property
    def ended_at(self) -> int:
        """When it was closed or abandoned, in milliseconds since the epoch by the cloud's clock."""
        return self.record.round.closed_at

    @property
    def is_closed(self) -> bool:
        """Whether the round has a result; an abandoned attempt has none."""
        return self.record.round.state is State.CLOSED

    @property
    def figures(self) -> dict[str, float]:
        """The figures by name, those of the round with the prefix ``round/``; unknown ones are left out."""
        buffered = bool(self.record.round.in_flight)
        of_round = {
            f"round/{name}": float(self.summary[name])
            for name in _FIGURES
            if self.summary[name] is not None and (buffered or name not in _OF_BUFFERS)
        }
        return {**of_round, **self.record.round.metrics}


class TrackedModel(Struct, frozen=True, kw_only=True):
    """A global model that a round of the run made."""

    number: int
    attempt: int
    parent: int  # number of the model that the devices started from; 0: the initial one
    uri: str  # s3://bucket/key
    sha256: str
    bytes: int
    made_at: int  # milliseconds since the epoch, by the cloud's clock
    replies: int  # updates in its average

    def lineage(self, tracked: TrackedRun) -> dict[str, str]:
        """Return where the model comes from, as texts by name."""
        return {
            "fedgrass.id": tracked.id,
            "fedgrass.fleet": tracked.fleet,
            "fedgrass.stack": tracked.stack,
            "fedgrass.task": tracked.run.settings.task,
            "fedgrass.run": tracked.run.name,
            "fedgrass.round": str(self.number),
            "fedgrass.attempt": str(self.attempt),
            "fedgrass.parent": f"{tracked.run.name}/{self.parent}",
            "fedgrass.replies": str(self.replies),
            "fedgrass.sha256": self.sha256,
            "fedgrass.bytes": str(self.bytes),
            "fedgrass.made_at": str(self.made_at),
        }


def tracked_round(record: RoundRecord) -> TrackedRound:
    """Return an ended attempt at a round as sinks receive it."""
    return TrackedRound(record=record, summary=history.summarize(record, {}))


def model_of(bucket: str, round_: Round) -> TrackedModel | None:
    """Return the model that a round made, or None."""
    if round_.state is not State.CLOSED or round_.work is not Work.TRAIN:
        return None
    return TrackedModel(
        number=round_.number,
        attempt=round_.attempt,
        parent=round_.base,
        uri=f"s3://{bucket}/{object_keys.model(round_.run, round_.number)}",
        sha256=round_.model_sha256,
        bytes=round_.model_bytes,
        made_at=round_.closed_at,
        replies=round_.good,
    )


def chosen_settings(settings: RunSettings) -> dict[str, str]:
    """Return the settings that differ from their defaults, as texts by name, such as ``training.epochs``."""
    return dict(_flat("", differing_settings(settings)))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
