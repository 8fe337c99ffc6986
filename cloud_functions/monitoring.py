"""Monitoring: the metrics of a fleet, those at the end of a round, and the port for log lines.

The metrics appear in CloudWatch under these names, in the namespace ``fedgrass`` with the dimension
``Fleet``. The alarms and the dashboard in template.yaml use the same names.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Protocol

from fedgrass.federation.rounds import Round, State, Work

NAMESPACE = "fedgrass"


class Metric(StrEnum):
    """The names of the metrics; ``UNITS`` has their units."""

    ROUNDS_CLOSED = "RoundsClosed"
    ROUNDS_ABANDONED = "RoundsAbandoned"
    ROUND_SECONDS = "RoundSeconds"  # from the opening of a round to its end
    TURNAROUND_SECONDS = "TurnaroundSeconds"  # of one device, from its announcement to its reply
    UPDATES_ACCEPTED = "UpdatesAccepted"  # in the average of a new global model
    UPDATES_REFUSED = "UpdatesRefused"  # because the update or its completion was bad
    MESSAGES_IGNORED = "MessagesIgnored"  # from devices that sent too many useless ones: device_limits.py
    UPDATES_LATE = "UpdatesLate"  # received after their round had ended
    UPDATES_STALE = "UpdatesStale"  # of buffered runs: given up or refused, since their model was too old
    STALENESS = "Staleness"  # of buffered runs: how many models older than the newest the counted ones were
    DEVICES_ASKED = "DevicesAsked"
    DEVICES_FAILED = "DevicesFailed"  # of those asked: declined, failed or silent
    DEVICES_SEEN = "DevicesSeen"  # recently enough to be asked: see selection/candidate_search.py
    ACCURACY = "Accuracy"  # of the global model before the round, on the devices' own data
    LOSS = "Loss"  # of the same model on the same data
    AVERAGING_SECONDS = "AveragingSeconds"
    MODELS_COLLAPSED = "ModelsCollapsed"  # far worse than the local models they were made of
    BYTES_UPLOADED = "BytesUploaded"
    BYTES_DOWNLOADED = "BytesDownloaded"


_SECONDS = (Metric.ROUND_SECONDS, Metric.TURNAROUND_SECONDS, Metric.AVERAGING_SECONDS)
_BYTES = (Metric.BYTES_UPLOADED, Metric.BYTES_DOWNLOADED)
# In CloudWatch's spelling.
UNITS = MappingProxyType(
    dict.fromkeys(Metric, "Count")
    | dict.fromkeys(_SECONDS, "Seconds")
    | dict.fromkeys(_BYTES, "Bytes")
    | dict.fromkeys((Metric.ACCURACY, Metric.LOSS, Metric.STALENESS), "None")
)


def metrics_of_ended(ended: Round) -> Iterator[tuple[Metric, float]]:
    """Yield the metrics of a round that was closed or abandoned, with their values."""
    closed = ended.state is State.CLOSED
    yield (Metric.ROUNDS_CLOSED if closed else Metric.ROUNDS_ABANDONED), 1
    yield Metric.ROUND_SECONDS, max(0.0, (ended.closed_at - ended.opened_at) / 1000)
    yield Metric.DEVICES_ASKED, ended.asked
    yield Metric.DEVICES_FAILED, ended.gone
    yield Metric.BYTES_UPLOADED, ended.bytes_up
    yield Metric.BYTES_DOWNLOADED, ended.bytes_down
    if not closed:
        return
    yield Metric.AVERAGING_SECONDS, max(0.0, ended.averaging_seconds)
    if ended.work is Work.TRAIN:
        yield Metric.UPDATES_ACCEPTED, ended.good
    if ended.in_flight:
        yield Metric.STALENESS, ended.staleness_mean
    if ended.collapse:
        yield Metric.MODELS_COLLAPSED, 1
    if ended.work is Work.MESSAGE and not ended.aim.startswith("evaluate"):
        return  # of the devices' own models after a training, or of whatever the app reports
    for metric, name in ((Metric.ACCURACY, "accuracy"), (Metric.LOSS, "loss")):
        if name in ended.metrics:
            yield metric, ended.metrics[name]


Level = Literal["INFO", "WARNING", "ERROR"]


class Log(Protocol):
    """A log whose lines and metrics carry the run, the round and the device that they are about."""

    def __call__(self, text: str, level: Level = "INFO") -> None:
        """Write a line: INFO for normal events, WARNING for what is retried, ERROR for failures."""

    def about(self, run: str = "", number: int = 0, device: str = "") -> AbstractContextManager[None]:
        """Set the run, its round ``number`` and the device for all lines and metrics within the context.

        Empty or 0 means unknown or none. On exit, the previous values are restored.
        """

    def measure(self, metric: Metric, value: float) -> None:
        """Record a value of a metric of the fleet."""
