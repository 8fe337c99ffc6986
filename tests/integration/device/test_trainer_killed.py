"""A trainer that is killed (SIGKILL) at each stage of an assignment, on a real core: the next one resumes it.

The stages are those of the journal: accepted, update written, reply recorded, verdict received.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from fedgrass.federation import weights
from fedgrass.federation.messages import Completion, Verdict
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.core.profiles import LITE
from tests.emulator.local_core import eventually
from tests.integration.device import slow_tasks
from tests.integration.device.test_trainer_on_core import BUCKET, NAME, PATIENCE, Site, site_on, work
from tests.integration.device.test_trainer_stream_upload import Gate

KEY = "updates/device-1/run-a/{}-1.safetensors"


class GatedSite(Site):
    """A site whose exports to S3 wait for a gate."""

    gate: Gate

    def kill_trainer(self) -> None:
        """End the main process as a crash would, and wait for the hello of the next one."""
        hellos = len(self.said("hello"))
        # A child that was just forked has its parent's command line until it executes its own.
        found = [psutil.Process(pid) for pid in self.processes]
        named = [process for process in found if process.cmdline()[-1] == "components.trainer"]
        (main,) = [process.pid for process in named if process.parent() not in named]
        os.kill(main, signal.SIGKILL)
        self.waits_for("hello", hellos + 1)

    @property
    def trainings(self) -> int:
        """Works that a worker has finished."""
        return self.log.count(": done with ")

    @property
    def journal(self) -> dict[str, object]:
        path = self.root / "work" / NAME / "journal.json"
        return dict(msgspec.json.decode(path.read_bytes())) if path.exists() else {}

    @property
    def updates(self) -> list[Path]:
        folder = self.root / "work" / NAME / "updates"
        return list(folder.iterdir()) if folder.exists() else []


@contextmanager
def gated_site(folder: Path, cloud: EmbeddedCloud) -> Iterator[GatedSite]:
    gates: list[Gate] = []

    def gated(s3: Any) -> Callable[[], Any]:
        gates.append(Gate(s3))
        return gates[0].client

    with site_on(folder, cloud, LITE, gated) as plain:
        site = GatedSite(plain.running, plain.build, plain.root, plain.s3)
        (site.gate,) = gates
        yield site


@pytest.fixture
def site(tmp_path: Path, embedded_cloud: EmbeddedCloud) -> Iterator[GatedSite]:
    with gated_site(tmp_path, embedded_cloud) as site:
        yield site


def lies_in_the_bucket(site: GatedSite, completion: Completion, number: int) -> None:
    update = site.s3.get_object(Bucket=BUCKET, Key=KEY.format(number))["Body"].read()
    assert (len(update), weights.checksum(update)) == (completion.bytes, completion.checksum)


def test_killed_while_it_trains_it_trains_when_it_is_announced_again(site: GatedSite) -> None:
    # Under a unique name, since the worker may find another checkout's tests first.
    shutil.copy(slow_tasks.__file__, site.root / "patient_tasks.py")
    enough = site.root / "enough"  # ends the training: no deadline that a slow machine could miss
    slow = {"module": "patient_tasks:Patient", "path": str(site.root), "until": str(enough)}
    site.deploy(tasks={"noise": slow})
    site.waits_for("hello")
    site.tells(work(11))
    eventually(lambda: len(site.processes) == 2, PATIENCE)
    workers = set(site.processes)
    site.kill_trainer()
    eventually(lambda: not workers & set(site.processes), PATIENCE)  # its worker has gone with it
    eventually(lambda: "run-a/11/1: the restart interrupted its training" in site.log, PATIENCE)
    site.tells(work(11, allow_partial=True))
    eventually(lambda: len(site.processes) == 2, PATIENCE)  # it trains again
    enough.touch()
    completion = site.waits_for("complete")
    assert (completion.round, completion.partial, completion.examples) == (11, True, 7)
    lies_in_the_bucket(site, completion, 11)


def test_killed_while_it_uploads_it_uploads_and_does_not_train_again(site: GatedSite) -> None:
    site.gate.open = False
    site.deploy()
    site.waits_for("hello")
    site.tells(work(12))
    eventually(lambda: site.gate.asked > 1, PATIENCE)
    written = set(site.updates)  # the update, and its result
    assert {path.suffix for path in written} == {".safetensors", ".result"}
    site.kill_trainer()
    eventually(lambda: "run-a/12/1: the update was written before the restart" in site.log, PATIENCE)
    assert set(site.updates) == written
    assert site.said("complete") == []
    site.gate.open = True
    completion = site.waits_for("complete")
    lies_in_the_bucket(site, completion, 12)
    assert site.trainings == 1
    assert [status.state for status in site.said("status")] == ["accepted"]
    eventually(lambda: site.updates == [], PATIENCE)


def test_killed_before_the_verdict_it_says_its_reply_again(site: GatedSite) -> None:
    site.deploy()
    site.waits_for("hello")
    site.tells(work(13))
    said = site.waits_for("complete")
    site.kill_trainer()
    again = site.waits_for("complete", len(site.said("complete")) + 1)
    assert again == said
    site.tells(work(13))  # as the cloud does after a hello
    site.tells(Verdict(run="run-a", round=13, attempt=1, counted=True))
    eventually(lambda: "run-a/13/1: the cloud counted the reply" in site.log, PATIENCE)
    assert site.trainings == 1


def test_killed_after_the_verdict_it_has_nothing_to_say(site: GatedSite) -> None:
    site.deploy()
    site.waits_for("hello")
    site.tells(work(14))
    site.waits_for("complete")
    site.tells(Verdict(run="run-a", round=14, attempt=1, counted=True))
    eventually(lambda: "the cloud counted the reply" in site.log, PATIENCE)
    said = len(site.said("complete"))
    site.kill_trainer()
    site.waits_for("heartbeat", len(site.said("heartbeat")) + 2)
    assert len(site.said("complete")) == said
    assert site.journal["work"] is None
    assert site.updates == []


def test_a_device_without_stream_manager_goes_on_with_its_upload_too(site: GatedSite) -> None:
    """Its uploader is slowed down, so that the kill meets it in the middle."""
    site.deploy(uploader="s3", upload_bytes_per_second=40_000)  # of 100 kB
    site.waits_for("hello")
    site.tells(work(15))
    eventually(lambda: site.trainings == 1, PATIENCE)
    site.kill_trainer()
    eventually(lambda: "run-a/15/1: the update was written before the restart" in site.log, PATIENCE)
    completion = site.waits_for("complete")
    lies_in_the_bucket(site, completion, 15)
    assert completion.upload_seconds > 1.5
    assert site.trainings == 1
