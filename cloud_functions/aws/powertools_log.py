"""The ``Log`` in Lambda: JSON lines, and metrics in CloudWatch's embedded metric format among them.

CloudWatch extracts the metrics from the lines, so recording one needs no API call and no permission. See
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics

from cloud_functions.monitoring import NAMESPACE, UNITS, Level, Metric

_UNKNOWN: dict[str, str | int] = {"run": "", "round": 0, "device": ""}


class PowertoolsLog:
    """A ``Log`` on Powertools' Logger and Metrics; one per process and fleet.

    Args:
        fleet: a key of every line, and the dimension of the metrics.
        stream: where lines are written, by default standard output; Powertools always prints metrics there.
    """

    def __init__(self, fleet: str, stream: TextIO | None = None) -> None:
        service, out = f"{NAMESPACE}-{fleet}", stream or sys.stdout
        self._logger = Logger(service=service, level="INFO", stream=out, utc=True, use_rfc3339=True)
        self._writers: dict[Level, Callable[[str], None]] = {
            "INFO": self._logger.info,
            "WARNING": self._logger.warning,
            "ERROR": self._logger.error,
        }
        # The location is always the line below that calls the logger.
        self._logger.remove_keys(["location"])
        self._metrics = EphemeralMetrics(namespace=NAMESPACE)
        self._metrics.set_default_dimensions(Fleet=fleet)
        self._measured = False
        self._about = _UNKNOWN
        self._logger.append_keys(fleet=fleet, **_UNKNOWN)

    def __call__(self, text: str, level: Level = "INFO") -> None:
        """Write a line; see ``Log``."""
        self._writers[level](text)

    @contextmanager
    def about(self, run: str = "", number: int = 0, device: str = "") -> Iterator[None]:
        """Set what the lines within are about; see ``Log``."""
        before = self._about
        self._change({"run": run, "round": number, "device": device})
        try:
            yield
        finally:
            self._change(before)

    def measure(self, metric: Metric, value: float) -> None:
        """Record a value; see ``Log``. Values that are not finite cannot be JSON, and are dropped."""
        if math.isfinite(value):
            self._metrics.add_metric(metric.value, UNITS[metric], value)
            self._measured = True

    def _change(self, about: dict[str, str | int]) -> None:
        """Flush the metrics recorded so far, which belong to the previous context; enter the new one."""
        if self._measured:
            self._measured = False
            for name, value in self._about.items():
                self._metrics.add_metadata(name, value)
            self._metrics.flush_metrics()
        self._about = about
        self._logger.append_keys(**about)
