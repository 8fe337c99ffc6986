"""The trainer as it is built and deployed: its recipe on a local core, the SDKs unmodified."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgrass.federation import weights
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    Heartbeat,
    Hello,
    Message,
    Status,
    Verdict,
    decode,
    encode,
)
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from package import build_component
from tests.cloud_credentials import temporary_credentials
from tests.emulator.local_core import CoreInThread, eventually, settings
from tests.emulator.stream_manager_server import stream_manager
from tests.integration.device.conftest import ON_CLASSIC
from tests.integration.device.noise_work import MODEL, MODEL_KEY, announced, without_default_tasks

NAME = "com.fedgrass.Trainer"
TOPICS = "fedgrass/plant/clients/device-1"
BUCKET = "trainer-on-core"
PATIENCE = 40.0  # seconds
CONFIGURATION: dict[str, object] = {
    "python": sys.executable,
    "fleet": "plant",
    "heartbeat_seconds": "1",  # as the nucleus may give it
    "tasks": {"noise": {"megabytes": "0.1"}},
}
KINDS: dict[str, type[Message]] = {
    "complete": Completion,
    "status": Status,
    "hello": Hello,
    "heartbeat": Heartbeat,
}


@dataclass
class Site:
    """A core with the trainer's build at hand, and the cloud's side of its topics."""

    running: CoreInThread
    build: Path
    root: Path
    s3: Any

    def deploy(self, **configuration: object) -> None:
        self.running.run(
            self.running.core.deploy(
                self.build / "recipes" / f"{NAME}.yaml",
                self.build / "artifacts",
                {**CONFIGURATION, **configuration},
            )
        )

    def said(self, kind: str) -> list[Any]:
        return [
            decode(message.payload, KINDS[kind])
            for message in self.running.broker.received
            if message.topic == f"{TOPICS}/{kind}"
        ]

    def waits_for(self, kind: str, count: int = 1) -> Any:
        """Return the latest message of a kind once the device has published ``count`` of them."""
        eventually(lambda: len(self.said(kind)) >= count, PATIENCE)
        return self.said(kind)[-1]

    def tells(self, message: Message) -> None:
        self.running.from_cloud(f"{TOPICS}/announce", encode(message))

    @property
    def log(self) -> str:
        return (self.root / "logs" / f"{NAME}.log").read_text()

    @property
    def processes(self) -> list[int]:
        """The trainer's main process and its worker."""
        work = self.root / "work" / NAME
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _is_trainer(entry, work)]


def _is_trainer(process: Path, work: Path) -> bool:
    try:
        program = (process / "cmdline").read_bytes().split(b"\0")
        return (process / "cwd").resolve() == work and any(
            part.startswith(b"components.trainer") for part in program
        )
    except OSError:
        return False  # it has just ended


def resident_megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def plainly(s3: Any) -> Callable[[], Any]:
    """Return how Stream Manager gets its client of S3, if nothing is to stand between."""
    return lambda: s3


@contextmanager
def site_on(
    folder: Path,
    cloud: EmbeddedCloud,
    profile: Profile,
    clients: Callable[[Any], Callable[[], Any]] = plainly,
) -> Iterator[Site]:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=MODEL_KEY, Body=MODEL)
    build_component(NAME, "1.2.3", "tests", folder / "build")
    without_default_tasks(folder / "build" / "recipes" / f"{NAME}.yaml")
    with ExitStack() as stack:
        port = stack.enter_context(stream_manager(folder / "streams", clients(s3)))
        root = folder / "core"
        running = CoreInThread(root, profile)
        stack.callback(running.close)
        variables = {"AWS_ENDPOINT_URL": cloud.endpoint_url, "STREAM_MANAGER_SERVER_PORT": str(port)}
        running.core = GreengrassCore(
            settings(root, profile, credentials=lambda: temporary_credentials(cloud), environment=variables),
            lambda: running.connection,
        )
        running.run(running.core.start())
        yield Site(running, folder / "build", root, s3)


@pytest.fixture
def site(tmp_path: Path, embedded_cloud: EmbeddedCloud, profile: Profile) -> Iterator[Site]:
    with site_on(tmp_path, embedded_cloud, profile) as site:
        yield site


def work(number: int = 1, **other: Any) -> Announcement:
    return announced(BUCKET, number, **other)


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
def test_the_trainer_does_two_rounds_on_a_core(
    tmp_path: Path, embedded_cloud: EmbeddedCloud, profile: Profile
) -> None:
    with site_on(tmp_path, embedded_cloud, profile) as site:
        site.deploy()
        assert site.waits_for("hello").component_version == "1.2.3"
        assert site.waits_for("heartbeat").tasks == "noise"
        site.tells(work())
        completion = site.waits_for("complete")
        key = "updates/device-1/run-a/1-1.safetensors"
        update = site.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert (completion.bytes, completion.checksum) == (len(update), weights.checksum(update))
        change = np.asarray(weights.decode(update)["bias"]) - np.asarray(weights.decode(MODEL)["bias"])
        np.testing.assert_allclose(change, completion.train_metrics["change"], atol=1e-6)
        site.tells(Verdict(run="run-a", round=1, attempt=1, counted=True))
        site.tells(work(2))
        assert site.waits_for("complete", 2).round == 2
        states = [status.state for status in site.said("status")]
        # On a slow machine the training reports its progress as well.
        assert [state for state in states if state != "progress"] == ["accepted", "accepted"]
        assert "run-a/1/1: the cloud counted the reply" in site.log


def test_a_device_without_stream_manager_uploads_with_the_same_credentials(site: Site) -> None:
    site.deploy(uploader="s3")
    site.waits_for("hello")
    site.tells(work(3))
    completion = site.waits_for("complete")
    found = site.s3.head_object(Bucket=BUCKET, Key="updates/device-1/run-a/3-1.safetensors")
    assert found["ContentLength"] == completion.bytes
    assert not (site.root / "work" / NAME / "export.json").exists()


def test_a_failure_in_the_worker_reaches_the_cloud(site: Site) -> None:
    site.deploy()
    site.waits_for("hello")
    site.tells(work(model_key="models/run-a/none.safetensors"))
    status = site.waits_for("status", 2)
    assert status.state == "failed"
    assert f"the model s3://{BUCKET}/models/run-a/none.safetensors cannot be downloaded" in status.reason


def test_a_closed_ipc_stream_ends_the_process_and_the_next_takes_its_work_up(site: Site) -> None:
    site.deploy(
        tasks={"noise": {"module": "tests.integration.device.slow_tasks:Endless", "path": str(Path.cwd())}}
    )
    site.waits_for("hello")
    site.tells(work())
    site.waits_for("status")
    before = site.processes
    site.running.run(site.running.core.close_ipc_streams(NAME))
    site.waits_for("hello", 2)
    eventually(lambda: not set(before) & set(site.processes), PATIENCE)
    # The loss of the connection or of one subscription, whichever is reported first.
    assert "ERROR the nucleus closed the " in site.log
    assert "exiting, to be started again" in site.log
    site.tells(work())
    assert site.waits_for("status", 2).state == "accepted"


def test_a_device_says_hello_after_an_outage(site: Site) -> None:
    site.deploy()
    site.waits_for("heartbeat")
    site.running.run(site.running.core.cut_mqtt())
    eventually(lambda: "not sent to" in site.log, PATIENCE)
    site.running.run(site.running.core.restore_mqtt())
    site.waits_for("hello", 2)
    assert "receiving messages again after an outage" in site.log
    assert len(site.processes) == 1


def test_a_deployment_waits_for_the_training_in_hand_but_not_for_ever(
    tmp_path: Path, embedded_cloud: EmbeddedCloud
) -> None:
    """On the classic nucleus; the training that has to end all the same begins again after the next hello."""
    options = {"module": "tests.integration.device.slow_tasks:Endless", "path": str(Path.cwd()), "deaf": True}
    tasks = {"noise": options}
    with site_on(tmp_path, embedded_cloud, CLASSIC) as site:
        site.deploy(tasks=tasks, defer_update_seconds=6)
        site.waits_for("hello")
        site.tells(work())
        site.waits_for("status")
        before, begun = site.processes, time.monotonic()
        with ThreadPoolExecutor(1) as deployer:
            deployment = deployer.submit(site.deploy, tasks=tasks, defer_update_seconds=6)
            eventually(lambda: "an update waits for run-a/1/1, for at most 6 s more" in site.log, PATIENCE)
            assert set(before) <= set(site.processes)
            deployment.result(PATIENCE)
        assert time.monotonic() - begun >= 6
        assert "an update begins during run-a/1/1" in site.log
        site.waits_for("hello", 2)
        assert not set(before) & set(site.processes)
        site.tells(work())
        assert site.waits_for("status", 2).state == "accepted"


@ON_CLASSIC
def test_a_changed_configuration_is_taken_up_with_no_restart(site: Site) -> None:
    site.deploy(heartbeat_seconds=3600)
    site.waits_for("heartbeat")
    (process,) = site.processes
    changed = {"tasks": {"noise": {"megabytes": 0.2}, "digits": {"shares": 2}}}
    site.running.run(site.running.core.update_configuration(NAME, changed))
    eventually(lambda: "took up a changed configuration" in site.log, PATIENCE)
    site.tells(work(task="none"))
    assert site.waits_for("status").reason == "this device has the tasks: digits, noise"
    assert site.processes == [process]


@ON_CLASSIC
def test_a_configuration_that_cannot_be_used_changes_nothing(site: Site) -> None:
    site.deploy()
    site.waits_for("heartbeat")
    site.running.run(site.running.core.update_configuration(NAME, {"heartbeat_seconds": "often"}))
    eventually(lambda: "the configuration stays as it was" in site.log, PATIENCE)
    newest = site.waits_for("heartbeat", len(site.said("heartbeat")) + 2)
    assert newest.configuration_error.startswith("the configuration's heartbeat_seconds is 'often'")
    site.running.run(site.running.core.update_configuration(NAME, {"heartbeat_seconds": "0.5"}))
    eventually(lambda: site.said("heartbeat")[-1].configuration_error == "", PATIENCE)


def test_a_trainer_that_is_restarted_with_a_wrong_value_works_by_the_last_configuration(
    tmp_path: Path, embedded_cloud: EmbeddedCloud
) -> None:
    """The real Lite restarts the component by itself, and rolls nothing back."""
    with site_on(tmp_path, embedded_cloud, CLASSIC) as site:
        site.deploy()
        site.waits_for("hello")
        site.running.run(site.running.core.update_configuration(NAME, {"threads": "many"}))
        eventually(lambda: "the configuration stays as it was" in site.log, PATIENCE)
        for number in (2, 3):
            (process,) = site.processes
            os.kill(process, signal.SIGKILL)
            site.waits_for("hello", number)
        heartbeat = site.waits_for("heartbeat", len(site.said("heartbeat")) + 1)
        assert heartbeat.configuration_error.startswith("the configuration's threads is 'many'")
        site.tells(work())
        assert site.waits_for("complete").round == 1
        site.running.run(site.running.core.update_configuration(NAME, {"threads": 2}))
        eventually(lambda: site.said("heartbeat")[-1].configuration_error == "", PATIENCE)


def test_a_first_configuration_that_cannot_be_used_is_told_in_one_line(site: Site) -> None:
    site.deploy(tasks={"faces": {}})
    eventually(lambda: site.running.core.component_state(NAME) == "BROKEN", PATIENCE)
    assert "there is no task 'faces'; built in are digits, mnist, cifar10, air_quality, noise" in site.log
    assert "Traceback" not in site.log


def test_a_topic_that_is_not_allowed_is_told_with_the_way_out(site: Site) -> None:
    policy = {
        "aws.greengrass.ipc.mqttproxy": {
            "com.fedgrass.Trainer:mqttproxy:2": {"resources": ["fedgrass/elsewhere/#"]}
        }
    }
    site.deploy(accessControl=policy)
    eventually(lambda: site.running.core.component_state(NAME) == "BROKEN", PATIENCE)
    assert f"not allowed to subscribe to {TOPICS}/announce: the recipe's accessControl" in site.log
    assert "Traceback" not in site.log


def test_an_idle_trainer_is_small(site: Site) -> None:
    site.deploy()
    site.waits_for("heartbeat", 2)
    (process,) = site.processes
    assert resident_megabytes(process) < 60


def test_a_trainer_that_uploads_by_itself_is_as_small_once_that_is_done(site: Site) -> None:
    site.deploy(uploader="s3", warm_seconds=0)
    site.waits_for("hello")
    site.tells(work(4))
    site.waits_for("complete")
    eventually(lambda: len(site.processes) == 1, PATIENCE)  # neither a worker nor an upload
    (process,) = site.processes
    assert resident_megabytes(process) < 60


def test_stopping_the_core_ends_the_trainer_and_a_worker_that_is_deaf(site: Site) -> None:
    options = {"module": "tests.integration.device.slow_tasks:Endless", "path": str(Path.cwd()), "deaf": True}
    site.deploy(tasks={"noise": options})
    site.waits_for("hello")
    site.tells(work())
    eventually(lambda: len(site.processes) == 2, PATIENCE)
    site.running.run(site.running.core.stop())
    assert eventually(lambda: site.processes == [], PATIENCE)
    assert [status.state for status in site.said("status")] == ["accepted"]


def test_a_missing_interpreter_is_told_by_the_install_step(site: Site) -> None:
    site.deploy(python="/no/such/python")
    eventually(lambda: site.running.core.component_state(NAME) == "BROKEN", PATIENCE)
    assert "the configuration's python is '/no/such/python'; it must be" in site.log
    assert "Traceback" not in site.log
