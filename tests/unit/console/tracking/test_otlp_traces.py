"""Traces of rounds, as a collector in this process receives them."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from fedgrass.console.tracking.otlp_traces import OtlpTraces
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Announcement
from tests.fakes.small_fleet import RUN
from tests.fakes.tracked_fleet import TrackedFleet

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra otel is not installed"
)
ERROR = 2  # of a status, in OTLP
TIMELINE = "prepare:20-120,download:120-220,evaluate:220-420,train:420-780,upload:790-900,total:0-900"


class Received(NamedTuple):
    """A span with the attributes of its resource."""

    resource: dict[str, str]
    span: Any

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def device(self) -> str:
        return self.resource.get("service.instance.id", "")

    @property
    def attributes(self) -> dict[str, Any]:
        kinds = {each.key: each.value for each in self.span.attributes}
        return {key: getattr(value, value.WhichOneof("value")) for key, value in kinds.items()}

    @property
    def seconds(self) -> tuple[float, float]:
        return self.span.start_time_unix_nano / 1e9, self.span.end_time_unix_nano / 1e9


class Collector:
    """A collector of OTLP over HTTP."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if collector.status == 200 and self.path == "/v1/traces":
                    collector.requests.append(trace_service.ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.status if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def received(self) -> list[Received]:
        return [
            Received({each.key: each.value.string_value for each in resource.resource.attributes}, span)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


class Heads:
    """S3 that has every model since a given time, or none."""

    def __init__(self, at: int | None) -> None:
        self._at = at

    def __call__(self, _service: str) -> Any:
        return self

    def head_object(self, **_: str) -> dict[str, datetime]:
        if self._at is None:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")
        return {"LastModified": datetime.fromtimestamp(self._at / 1000, tz=UTC)}


def sink(collector: Collector, published_at: int | None = None) -> OtlpTraces:
    clients: Any = Heads(published_at)
    return OtlpTraces(collector.url, clients)


def named(collector: Collector, name: str, device: str = "") -> Received:
    return next(each for each in collector.received if (each.name, each.device) == (name, device))


def traced() -> TrackedFleet:
    """A run of one round: of two devices, both reply a second after the announcement, one with a timeline."""
    fleet = TrackedFleet(devices=2, rounds=1, trace=True)
    fleet.start()
    fleet.pass_time(1)
    opened = fleet.newest()
    fleet.reply("thing-0", opened, timeline=TIMELINE)
    fleet.reply("thing-1", opened)
    return fleet


def test_a_round_is_one_trace_from_its_announcements_to_its_model(collector: Collector) -> None:
    fleet = traced()
    closed = fleet.newest()
    fleet.track(sink(collector, closed.closed_at + 2_000))
    spans = {each.span.span_id: each for each in collector.received}
    assert len({each.span.trace_id for each in spans.values()}) == 1
    roots = [each for each in spans.values() if not each.span.parent_span_id]
    assert [each.name for each in roots] == ["round"]
    assert all(each.span.parent_span_id in spans for each in spans.values() if each not in roots)
    names = [each.name for each in collector.received if not each.device]
    assert names == ["round", "select", "announce", "collect", "average", "publish"]
    assert named(collector, "publish").seconds[1] == pytest.approx(closed.closed_at / 1000 + 2)
    assert named(collector, "round").seconds[1] == named(collector, "publish").seconds[1]


def test_the_context_in_the_announcement_is_the_parent_of_the_devices_spans(collector: Collector) -> None:
    fleet = traced()
    fleet.track(sink(collector))
    announced: Announcement = fleet.announced("thing-0")[0]
    _, trace, parent, _ = str(announced.trace).split("-")
    for device in fleet.names:
        found = named(collector, "train on device", device).span
        assert (found.trace_id.hex(), found.parent_span_id.hex()) == (trace, parent)
    assert named(collector, "announce").span.span_id.hex() == parent


def test_cloud_and_devices_are_separate_services_of_a_fleet(collector: Collector) -> None:
    fleet = traced()
    fleet.track(sink(collector))
    services = {(each.resource["service.name"], each.device) for each in collector.received}
    assert services == {
        ("fedgrass-cloud", ""),
        ("fedgrass-device", "thing-0"),
        ("fedgrass-device", "thing-1"),
    }
    assert {each.resource["service.namespace"] for each in collector.received} == {"garden"}


def test_the_parts_of_a_device_are_as_it_measured_them_and_within_the_turnaround(
    collector: Collector,
) -> None:
    fleet = traced()
    fleet.track(sink(collector))
    start, end = named(collector, "train on device", "thing-0").seconds
    assert end - start == pytest.approx(1)  # of which the device measured 0.9 s: 50 ms for each way
    parts = {
        name: named(collector, name, "thing-0").seconds
        for name in ("prepare", "download", "evaluate", "train", "upload")
    }
    assert {name: (round(a - start, 3), round(b - start, 3)) for name, (a, b) in parts.items()} == {
        "prepare": (0.07, 0.17),
        "download": (0.17, 0.27),
        "evaluate": (0.27, 0.47),
        "train": (0.47, 0.83),
        "upload": (0.84, 0.95),
    }
    attributes = named(collector, "train on device", "thing-0").attributes
    assert attributes["fedgrass.timing"] == "timeline"
    assert attributes["fedgrass.uncertainty_ms"] == 50


def test_without_a_timeline_the_durations_are_laid_end_to_end_before_the_reply(collector: Collector) -> None:
    fleet = traced()
    fleet.track(sink(collector))
    whole = named(collector, "train on device", "thing-1")
    assert whole.attributes["fedgrass.timing"] == "durations"
    train = named(collector, "train", "thing-1")  # 1.5 s claimed, in a turnaround of 1 s
    assert train.seconds == whole.seconds


@pytest.mark.parametrize("timeline", ["train:0-99999999,total:0-99999999", "total:0-0"])
def test_a_device_that_claims_another_duration_stays_within_its_span(
    collector: Collector, timeline: str
) -> None:
    fleet = TrackedFleet(devices=1, rounds=1, trace=True)
    fleet.start()
    fleet.pass_time(1)
    fleet.reply("thing-0", timeline=timeline)
    fleet.track(sink(collector))
    start, end = named(collector, "train on device", "thing-0").seconds
    for each in collector.received:
        if each.device:
            assert start <= each.seconds[0] <= each.seconds[1] <= end


def test_a_repeated_export_has_the_same_spans(collector: Collector) -> None:
    fleet = traced()
    fleet.track(sink(collector))
    first = [each.span.SerializeToString() for each in collector.received]
    collector.requests.clear()
    fleet.track(sink(collector))
    assert [each.span.SerializeToString() for each in collector.received] == first


def test_an_abandoned_attempt_is_a_trace_of_its_own_with_the_reason(collector: Collector) -> None:
    fleet = TrackedFleet(devices=2, rounds=1, trace=True, deadline_seconds=60, attempts=2)
    fleet.start()
    fleet.status("thing-0", "failed", reason="<b>no disk</b>")
    fleet.status("thing-1", "declined", reason="on battery")
    fleet.ring()
    fleet.train()
    fleet.track(sink(collector))
    rounds = [each for each in collector.received if each.name == "round"]
    assert len({each.span.trace_id for each in rounds}) == 2
    abandoned = rounds[0].span
    assert abandoned.status.code == ERROR
    assert abandoned.status.message == fleet.rounds.round(RUN, 1, 1).reason  # type: ignore[union-attr]
    failed, declined = (named(collector, "train on device", name) for name in fleet.names)
    assert (failed.span.status.code, failed.span.status.message) == (ERROR, "<b>no disk</b>")
    assert declined.span.status.code == 0
    assert declined.attributes["fedgrass.reason"] == "on battery"
    assert "unknown" in failed.attributes["fedgrass.end"]


def test_a_reply_to_a_buffer_is_in_the_trace_of_its_announcement_and_linked_to_the_buffer(
    collector: Collector,
) -> None:
    fleet = TrackedFleet(devices=4, rounds=2, trace=True, mode="buffered", buffer_size=2, in_flight=4)
    fleet.start()
    fleet.pass_time(1)
    first = fleet.newest()
    for name in fleet.names:  # two fill the first buffer, two the second
        fleet.pass_time(1)
        fleet.reply(name, first)
    fleet.track(sink(collector))
    rounds = {
        each.attributes["fedgrass.round"]: each.span for each in collector.received if each.name == "round"
    }
    assert set(rounds) == {1, 2}
    linked = [each for each in collector.received if each.span.links]
    assert linked
    for each in linked:
        assert each.span.trace_id == rounds[1].trace_id
        assert each.span.links[0].span_id == rounds[2].span_id
    ids = [(each.span.trace_id, each.span.span_id) for each in collector.received]
    assert len(ids) == len(set(ids))
    assert [each.device for each in linked] == fleet.names[2:]


def test_a_model_that_is_gone_ends_the_trace_with_its_round(collector: Collector) -> None:
    fleet = traced()
    fleet.track(sink(collector, None))
    assert "publish" not in [each.name for each in collector.received]


@pytest.mark.parametrize("status", [400, 404])
def test_a_collector_that_refuses_is_one_line_with_its_address(collector: Collector, status: int) -> None:
    collector.status = status
    warnings: list[str] = []
    report = traced().track(sink(collector), warnings=warnings)
    assert len(warnings) == 1
    assert collector.url in report.sinks[0].error
    assert str(status) in report.sinks[0].error


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://x", "http://", "x"])
def test_what_is_no_url_of_a_collector_is_refused(url: str) -> None:
    clients: Any = Heads(None)
    with pytest.raises(SettingsError, match=r"otlp:http://127\.0\.0\.1:4318"):
        OtlpTraces(url, clients)
