"""A sink that exports the traces of rounds to OpenTelemetry, by OTLP over HTTP.

The official exporter encodes and sends them, and honours OTEL_EXPORTER_OTLP_HEADERS and its other variables.
The spans are made from the rows of the tables (round_spans.py), not recorded live.
"""

import logging
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from fedgrass import __version__
from fedgrass.console.aws_clients import Clients
from fedgrass.console.tracking.round_spans import Span, round_spans
from fedgrass.console.tracking.tracked_run import Key, TrackedModel, TrackedRound, TrackedRun, model_of
from fedgrass.console.tracking.tracking_sink import Recorded
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError

_PATH = "/v1/traces"
_SECONDS = 10.0  # for a request, with its repetitions
_MOST_SPANS = 512  # per request
_SAMPLED = 1


class ExportFailed(FedgrassError):
    """The collector did not take the spans."""


class OtlpTraces:
    """The sink ``otlp:URL``: a trace per attempt at a round.

    A collector cannot be asked what it has: a repeated command sends the same spans again, with the same ids.
    """

    def __init__(self, target: str, clients: Clients) -> None:
        self.name = f"otlp:{target}"
        parts = urlsplit(target)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            message = (
                f"--sink {self.name}: it takes the URL of a collector, such as otlp:http://127.0.0.1:4318"
            )
            raise SettingsError(message)
        self._endpoint = target if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{_PATH}"
        self._clients = clients
        self._tracked: TrackedRun | None = None
        self._opened_at: dict[Key, int] = {}

    @cached_property
    def _exporter(self) -> Any:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an extra
            OTLPSpanExporter,
        )

        return OTLPSpanExporter(endpoint=self._endpoint, timeout=_SECONDS)

    def begin(self, tracked: TrackedRun) -> Recorded:
        """Remember the run; see ``Sink``."""
        self._tracked = tracked
        return Recorded()

    def add_round(self, found: TrackedRound) -> bool:
        """Export the trace of a round; see ``Sink``.

        Raises:
            ExportFailed: the collector did not take it.
        """
        tracked = self._tracked
        if tracked is None:
            return False
        self._opened_at[found.key] = found.record.round.opened_at
        spans = round_spans(tracked, found.record, self._opened_at, self._published_at(tracked, found))
        for batch in _batches(readable_spans(tracked.fleet, spans)):
            self._export(batch)
        return True

    def add_model(self, _: TrackedModel) -> bool:
        """Ignore the model, which is in its round's trace; see ``Sink``."""
        return False

    def update(self, _: TrackedRun) -> None:
        """Do nothing: every round was sent when it was added; see ``Sink``."""

    def close(self) -> None:
        """Do nothing: each request has its own connection; see ``Sink``."""

    def _published_at(self, tracked: TrackedRun, found: TrackedRound) -> int:
        """Return when S3 created the model's object, to the second; 0 if there is none."""
        if model_of(tracked.bucket, found.record.round) is None:
            return 0
        key = object_keys.model(tracked.run.name, found.record.round.number)
        try:
            head = self._clients("s3").head_object(Bucket=tracked.bucket, Key=key)
        except ClientError:  # it was deleted, or may not be read: the trace ends with the round
            return 0
        return max(found.ended_at, round(head["LastModified"].timestamp() * 1000))

    def _export(self, spans: list[Any]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - as above

        # The exporter returns that it failed, and only logs why.
        logger, heard = logging.getLogger("opentelemetry"), _LastRecord()
        propagates, logger.propagate = logger.propagate, False
        logger.addHandler(heard)
        try:
            result = self._exporter.export(spans)
        finally:
            logger.removeHandler(heard)
            logger.propagate = propagates
        if result is not SpanExportResult.SUCCESS:
            message = (
                f"the collector at {self._endpoint} did not take the spans: {heard.text or 'no reason given'}"
            )
            raise ExportFailed(message)


class _LastRecord(logging.Handler):
    """Keeps the text of the last record of a logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record."""
        self.text = record.getMessage()


def readable_spans(fleet: str, spans: Iterable[Span]) -> Iterator[Any]:
    """Yield spans as OpenTelemetry's exporters take them: the cloud and each device are resources."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - as above
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415 - as above
    from opentelemetry.trace import (  # noqa: PLC0415 - as above
        Link,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
    )

    scope = InstrumentationScope("fedgrass", __version__)
    kinds = {"internal": SpanKind.INTERNAL, "producer": SpanKind.PRODUCER, "consumer": SpanKind.CONSUMER}

    def context(trace: str, span: str) -> SpanContext:
        return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=TraceFlags(_SAMPLED))

    def resource(device: str) -> Resource:
        service = (
            {"service.name": "fedgrass-device", "service.instance.id": device}
            if device
            else {"service.name": "fedgrass-cloud"}
        )
        return Resource({**service, "service.namespace": fleet})

    for span in spans:
        yield ReadableSpan(
            name=span.name,
            context=context(span.trace, span.span),
            parent=context(span.trace, span.parent) if span.parent else None,
            resource=resource(span.device),
            attributes=span.attributes,
            kind=kinds[span.kind],
            links=[Link(context(*span.link))] if span.link else (),
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=round(span.start * 1_000_000),
            end_time=round(span.end * 1_000_000),
            instrumentation_scope=scope,
        )


def _batches(spans: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(spans, _MOST_SPANS)):
        yield batch
