"""Each fault through an unmodified SDK, while it is active and after it is cleared."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import awsiot.greengrasscoreipc as greengrass
import pytest
from awsiot.eventstreamrpc import AccessDeniedError, ConnectionClosedError, StreamClosedError
from awsiot.greengrasscoreipc import model
from stream_manager import (
    ExportDefinition,
    MessageStreamDefinition,
    Persistence,
    ReadMessagesOptions,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    Status,
    StatusConfig,
    StatusLevel,
    StatusMessage,
    StrategyOnFull,
    StreamManagerClient,
    UnknownFailureException,
)
from stream_manager.util import Util

from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.core.standalone_core import S3Folder
from greengrass_emulator.emulator_errors import CoreError, InjectionError
from greengrass_emulator.faults.fault_injection import FaultInjector
from greengrass_emulator.faults.fault_state import FAULTS, Faults
from tests.emulator.local_core import (
    COMPONENT,
    CoreInThread,
    core_in_thread,
    eventually,
    recipe,
    write_recipe,
)
from tests.emulator.sdk_client import connect
from tests.emulator.stream_manager_server import stream_manager

SECONDS = 20
BUCKET = "a-bucket"


class Faulty:
    """A core with a component, the component's SDK client, and the core's fault injector."""

    def __init__(self, running: CoreInThread, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self.injector = FaultInjector(running.core)
        allowed = {"x:1": {"operations": ["*"], "resources": ["*"]}}
        content = recipe(
            "sleep 1000", configuration={"accessControl": {"aws.greengrass.ipc.mqttproxy": allowed}}
        )
        running.run(running.core.deploy(write_recipe(folder, content), folder))
        running.run(running.core.wait_for(COMPONENT, "RUNNING", SECONDS))
        self.events: list[Any] = []
        self.closed: list[bool] = []
        self.client = self.connect()

    def connect(self) -> Any:
        return connect(self.running.core)

    def inject(self, fault: str, amount: int | None = None, seconds: float | None = None) -> None:
        self.running.run(self.injector.inject(fault, amount, seconds))

    def clear(self, fault: str) -> None:
        self.running.run(self.injector.clear(fault))

    def subscribe(self, topic: str = "room/+") -> None:
        self.client.subscribe_to_iot_core(
            topic_name=topic,
            qos="1",
            on_stream_event=self.events.append,
            on_stream_closed=lambda: self.closed.append(True),
        )

    def publish(self, payload: bytes = b"x", qos: str = "1") -> None:
        self.client.publish_to_iot_core_async(topic_name="room/out", qos=qos, payload=payload).result(SECONDS)

    def heard(self) -> list[bytes]:
        return [event.message.payload for event in self.events]


@pytest.fixture
def profile() -> Profile:
    return CLASSIC


@pytest.fixture
def faulty(tmp_path: Path, profile: Profile) -> Iterator[Faulty]:
    with core_in_thread(tmp_path / "core", profile) as running:
        core = Faulty(running, tmp_path)
        yield core
        core.client.close().exception(SECONDS)

        async def close() -> None:
            core.injector.close()

        running.run(close())


BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=lambda profile: profile.name)


@BOTH
def test_duplicates_are_delivered_twice_in_both_directions_until_cleared(faulty: Faulty) -> None:
    faulty.subscribe()
    faulty.inject("duplicates")
    faulty.running.from_cloud("room/in", b"in")
    faulty.publish(b"out")
    eventually(lambda: len(faulty.heard()) == 6)  # its message was sent twice, and each was delivered twice
    sent = [message.payload for message in faulty.running.broker.received]
    assert sent == [b"in", b"out", b"out"]

    faulty.clear("duplicates")
    faulty.running.from_cloud("room/in", b"last")
    eventually(lambda: b"last" in faulty.heard())
    faulty.publish(b"end")
    eventually(lambda: b"end" in faulty.heard())
    assert faulty.heard().count(b"last") == 1


@pytest.mark.parametrize(("profile", "error"), [(CLASSIC, model.ServiceError), (LITE, ConnectionClosedError)])
def test_an_oversize_message_is_treated_as_by_the_nucleus(faulty: Faulty, error: type[Exception]) -> None:
    faulty.subscribe()
    faulty.inject("oversize", 3)
    faulty.running.from_cloud("room/in", b"four")
    faulty.running.from_cloud("room/in", b"two")
    eventually(faulty.heard)
    assert faulty.heard() == [b"two"]
    with pytest.raises((error, StreamClosedError)):
        faulty.publish(b"four")


@BOTH
def test_a_full_spool_refuses_qos_1_and_lets_qos_0_pass(faulty: Faulty) -> None:
    faulty.inject("spool-full")
    with pytest.raises(model.ServiceError):
        faulty.publish()
    faulty.publish(qos="0")
    faulty.clear("spool-full")
    faulty.publish()


@BOTH
def test_silent_subscriptions_receive_nothing_while_everything_else_works(faulty: Faulty) -> None:
    faulty.subscribe()
    faulty.inject("silent-subscriptions")

    faulty.running.from_cloud("room/in", b"lost")
    faulty.publish(b"sent")
    eventually(lambda: b"sent" in [message.payload for message in faulty.running.broker.received])
    assert faulty.heard() == []
    assert faulty.closed == []

    faulty.subscribe("room/in")
    faulty.running.from_cloud("room/in", b"found")
    eventually(faulty.heard)
    assert faulty.heard() == [b"found"]  # once: the first subscription is still dead


@pytest.mark.parametrize(("profile", "error"), [(CLASSIC, AccessDeniedError), (LITE, Exception)])
def test_a_restarted_ipc_daemon_closes_every_stream_and_refuses_old_tokens(
    faulty: Faulty, error: type[Exception]
) -> None:
    faulty.subscribe()
    before = faulty.running.core.component_environment(COMPONENT)
    faulty.inject("ipc-restart")
    eventually(lambda: faulty.closed)
    with pytest.raises(RuntimeError) as refused:
        faulty.publish()
    # The second is raised a moment before the SDK knows that its connection is closed.
    assert isinstance(refused.value, ConnectionClosedError) or "CONNECTION_CLOSED" in str(refused.value)
    with pytest.raises(error):
        greengrass.connect(
            ipc_socket=before["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"],
            authtoken=before["SVCUID"],
        )
    faulty.client = faulty.connect()  # as the component's next process does
    faulty.publish()


@BOTH
def test_a_cut_link_is_restored_after_its_duration(faulty: Faulty) -> None:
    faulty.inject("broker-cut", seconds=0.3)
    with pytest.raises(model.ServiceError):
        faulty.publish(qos="0")
    eventually(lambda: faulty.running.connection.connected)
    faulty.publish(b"again", qos="0")
    eventually(lambda: b"again" in [message.payload for message in faulty.running.broker.received])
    assert faulty.injector.active == {}


def test_a_slow_uplink_delays_messages(faulty: Faulty) -> None:
    faulty.inject("slow-uplink", 1)
    faulty.publish(bytes(3600))  # an hour
    faulty.clear("slow-uplink")
    faulty.publish(b"on a quick line")
    eventually(lambda: faulty.running.broker.received)
    assert [message.payload for message in faulty.running.broker.received] == [b"on a quick line"]


def test_a_full_disk_refuses_deployments_and_stops_nothing(faulty: Faulty) -> None:
    faulty.inject("disk-full")
    again = faulty.running.core.deploy(faulty.folder / f"{COMPONENT}.yaml", faulty.folder)
    with pytest.raises(CoreError, match="No space left on device"):
        faulty.running.run(again)
    faulty.running.run(faulty.running.core.wait_for(COMPONENT, "RUNNING", SECONDS))


@pytest.mark.parametrize(
    ("fault", "amount", "seconds", "complaint"),
    [
        ("earthquake", None, None, "no fault 'earthquake': choose one of broker-cut"),
        ("duplicates", 3, None, "has no amount, it was given 3"),
        ("slow-uplink", None, None, "needs an amount in bytes/s, 1 or more$"),
        ("slow-uplink", 0, None, "1 or more, not 0"),
        ("s3-errors", 200, None, "400 or more, not 200"),
        ("ipc-restart", None, 5.0, "it happens once"),
        ("duplicates", None, 0.0, "a duration is above 0"),
    ],
)
def test_an_invalid_fault_is_refused_with_the_valid_values(
    faulty: Faulty, fault: str, amount: int | None, seconds: float | None, complaint: str
) -> None:
    with pytest.raises(InjectionError, match=complaint):
        faulty.inject(fault, amount, seconds)
    assert faulty.injector.active == {}


def test_every_lasting_fault_can_be_cleared_even_if_inactive(faulty: Faulty) -> None:
    for name, fault in FAULTS.items():
        if fault.lasts:
            faulty.clear(name)
        else:
            with pytest.raises(InjectionError, match="nothing to clear"):
                faulty.clear(name)


# Stream Manager


class Exporter:
    """A Stream Manager that exports into a folder, a client of it, and the faults of its core."""

    def __init__(self, folder: Path, port: int, faults: Faults) -> None:
        self.faults = faults
        self.client = StreamManagerClient(port=port, request_timeout=SECONDS)
        self.file = folder / "update"
        self.file.write_bytes(bytes(300_000))
        self._next = 0
        overwrite = StrategyOnFull.OverwriteOldestData
        status = MessageStreamDefinition(
            name="status", strategy_on_full=overwrite, persistence=Persistence.Memory
        )
        self.client.create_message_stream(status)
        told = StatusConfig(status_level=StatusLevel.INFO, status_stream_name="status")
        export = S3ExportTaskExecutorConfig(identifier="s3", status_config=told)
        self.client.create_message_stream(
            MessageStreamDefinition(
                name="updates",
                strategy_on_full=StrategyOnFull.RejectNewData,
                export_definition=ExportDefinition(s3_task_executor=[export]),
            )
        )

    def append(self, key: str) -> None:
        task = S3ExportTaskDefinition(input_url=f"file:{self.file}", bucket=BUCKET, key=key)
        self.client.append_message("updates", Util.validate_and_serialize_to_json_bytes(task))

    def wait(self, wanted: Any) -> None:
        """Read the status stream until a task has this status."""
        while True:
            options = ReadMessagesOptions(self._next, 1, 1, SECONDS * 1000)
            (message,) = self.client.read_messages("status", options)
            self._next = message.sequence_number + 1
            if Util.deserialize_json_bytes_to_obj(message.payload, StatusMessage).status is wanted:
                return


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    faults, bucket = Faults(), tmp_path / "s3"
    with stream_manager(tmp_path / "streams", lambda: S3Folder(bucket), faults=faults) as port:
        one = Exporter(tmp_path, port, faults)
        with closing(one.client):
            yield one


def test_a_full_disk_refuses_messages_until_it_has_space(exporter: Exporter) -> None:
    exporter.faults.disk_full = True
    with pytest.raises(UnknownFailureException, match="No space left on device"):
        exporter.append("k")
    definition = MessageStreamDefinition(name="more", strategy_on_full=StrategyOnFull.RejectNewData)
    with pytest.raises(UnknownFailureException, match="No space left on device"):
        exporter.client.create_message_stream(definition)
    exporter.faults.disk_full = False
    exporter.append("k")
    exporter.wait(Status.Success)


def test_transient_s3_errors_are_retried_and_others_end_the_task(exporter: Exporter, tmp_path: Path) -> None:
    exporter.faults.s3_status = 503
    exporter.append("later")
    exporter.wait(Status.Warning)
    exporter.faults.s3_status = None
    exporter.wait(Status.Success)
    assert (tmp_path / "s3" / BUCKET / "later").read_bytes() == exporter.file.read_bytes()

    exporter.faults.s3_status = 403
    exporter.append("never")
    exporter.wait(Status.Failure)
    assert not (tmp_path / "s3" / BUCKET / "never").exists()


def test_an_upload_over_a_slow_uplink_can_be_canceled(exporter: Exporter, tmp_path: Path) -> None:
    exporter.faults.uplink_bytes_per_second = 1
    exporter.append("slow")
    exporter.wait(Status.InProgress)
    exporter.client.delete_message_stream("updates")
    exporter.wait(Status.Canceled)
    assert [path.name for path in (tmp_path / "s3").rglob("*") if path.is_file()] == []


def test_a_key_that_leads_out_of_its_bucket_is_refused(exporter: Exporter, tmp_path: Path) -> None:
    exporter.append("../../escaped")
    exporter.wait(Status.Failure)
    assert not (tmp_path / "escaped").exists()
