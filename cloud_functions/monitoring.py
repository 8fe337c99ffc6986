"""Monitoring: the metrics of a fleet, those at the end of a round, and the port for log lines.

The names are those of CloudWatch's metrics, under the namespace ``fedgrass`` with the dimension
``Fleet``: the alarms and the dashboard in template.yaml name them too.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Protocol

from fedgrass.federation.rounds import Round, State, Work

NAMESPACE = "fedgrass"


class Metric(StrEnum):
    """The metrics; ``UNITS`` has their units."""

    ROUNDS_CLOSED = "RoundsClosed"
    ROUNDS_ABANDONED = "RoundsAbandoned"
    ROUND_SECONDS = "RoundSeconds"  # from the opening of a round to its end
    TURNAROUND_SECONDS = "TurnaroundSeconds"  # of one device, from its announcement to its reply
    UPDATES_ACCEPTED = "UpdatesAccepted"  # that a new global model was averaged of
    UPDATES_REFUSED = "UpdatesRefused"  # by name: the update itself was bad, or the message of it
    MESSAGES_IGNORED = "MessagesIgnored"  # of devices that sent too many useless ones: see device_limits.py
    UPDATES_LATE = "UpdatesLate"  # that came when their round was over
    DEVICES_ASKED = "DevicesAsked"
    DEVICES_FAILED = "DevicesFailed"  # of those: they declined, failed or stayed silent
    DEVICES_SEEN = "DevicesSeen"  # recently enough to be asked: see census.py
    ACCURACY = "Accuracy"  # of the global model before the round, on the devices' own data
    LOSS = "Loss"  # of the same
    AVERAGING_SECONDS = "AveragingSeconds"
    BYTES_UPLOADED = "BytesUploaded"
    BYTES_DOWNLOADED = "BytesDownloaded"


_SECONDS = (Metric.ROUND_SECONDS, Metric.TURNAROUND_SECONDS, Metric.AVERAGING_SECONDS)
_BYTES = (Metric.BYTES_UPLOADED, Metric.BYTES_DOWNLOADED)
# As CloudWatch spells them.
UNITS = MappingProxyType(
    dict.fromkeys(Metric, "Count")
    | dict.fromkeys(_SECONDS, "Seconds")
    | dict.fromkeys(_BYTES, "Bytes")
    | dict.fromkeys((Metric.ACCURACY, Metric.LOSS), "None")
)


def of_ended(ended: Round) -> Iterator[tuple[Metric, float]]:
    """Return what there is to measure of a round that was closed or abandoned."""
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
    for metric, name in ((Metric.ACCURACY, "accuracy"), (Metric.LOSS, "loss")):
        if name in ended.metrics:
            yield metric, ended.metrics[name]


Level = Literal["INFO", "WARNING", "ERROR"]


class Log(Protocol):
    """A log whose every line, and every measurement, says of which run, round and device it is."""

    def __call__(self, text: str, level: Level = "INFO") -> None:
        """Write a line: INFO is the course of things, WARNING what comes back later, ERROR what failed."""

    def about(self, run: str = "", number: int = 0, device: str = "") -> AbstractContextManager[None]:
        """Say that what is written within is about a run, round ``number`` of it, and a device.

        What is empty or 0 is not known, or there is none. Afterwards it is as it was before.
        """

    def measure(self, metric: Metric, value: float) -> None:
        """Add a value to a metric of the fleet."""
