"""Private arrays on a local core: they outlive a kill, an upgrade, and a kill right after the upload."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from components.runtime.array_files import read_private
from fedgrass.federation import weights
from fedgrass.federation.messages import Announcement, Verdict
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.task_sharing import initial_model
from greengrass_emulator.core.profiles import LITE
from package import build_component
from tests.emulator.local_core import eventually
from tests.fakes.partial_task import Marked
from tests.integration.device.noise_work import without_default_tasks
from tests.integration.device.test_trainer_on_core import BUCKET, NAME, PATIENCE, Site, site_on

pytestmark = pytest.mark.slow  # a core, its components and their processes

INITIAL = initial_model(Marked(), 0)
MODEL = INITIAL.file()
TASK = {"module": "tests.fakes.partial_task:Marked", "path": str(Path.cwd())}
KEY = "models/run-a/0.safetensors"


@pytest.fixture
def site(tmp_path: Path, embedded_cloud: EmbeddedCloud) -> Iterator[Site]:
    with site_on(tmp_path, embedded_cloud, LITE) as site:
        site.s3.put_object(Bucket=BUCKET, Key=KEY, Body=MODEL)
        for number in (1, 2, 3):  # the cloud is that of the other tests
            site.s3.delete_object(Bucket=BUCKET, Key=f"updates/device-1/run-a/{number}-1.safetensors")
        site.deploy(tasks={"marked": TASK}, uploader="s3")
        site.waits_for("hello")
        yield site


def work(number: int) -> Announcement:
    return Announcement(
        run="run-a",
        round=number,
        attempt=1,
        work="train",
        task="marked",
        announced_at=1,
        deadline_seconds=60,
        bucket=BUCKET,
        model_key=KEY,
        model_sha256=weights.sha256(MODEL),
        model_bytes=len(MODEL),
        frozen_sha256=INITIAL.frozen_sha256,
    )


def trains(site: Site, number: int) -> Any:
    """Let the device do a round, and return its completion."""
    site.tells(work(number))
    eventually(lambda: any(one.round == number for one in site.said("complete")), PATIENCE)
    site.tells(Verdict(run="run-a", round=number, attempt=1, counted=True))
    return next(one for one in site.said("complete") if one.round == number)


def kept(site: Site) -> dict[str, Any]:
    found = read_private(site.root / "work" / NAME / "private" / "marked" / "run-a.safetensors")
    assert found
    return found.arrays


def is_uploaded(site: Site, number: int) -> bool:
    try:
        site.s3.head_object(Bucket=BUCKET, Key=f"updates/device-1/run-a/{number}-1.safetensors")
    except ClientError:
        return False
    return True


def test_private_arrays_outlive_a_killed_trainer_and_an_upgrade(site: Site) -> None:
    assert trains(site, 1).metrics["head"] == 0
    hellos = len(site.said("hello"))
    for process in site.processes:
        os.kill(process, signal.SIGKILL)
    site.waits_for("hello", hellos + 1)
    assert trains(site, 2).metrics["head"] == 1

    hellos = len(site.said("hello"))
    build_component(NAME, "1.2.4", "tests", site.build)
    without_default_tasks(site.build / "recipes" / f"{NAME}.yaml")
    site.deploy(tasks={"marked": TASK}, uploader="s3")
    eventually(lambda: any(one.component_version == "1.2.4" for one in site.said("hello")), PATIENCE)
    assert trains(site, 3).metrics["head"] == 2
    assert kept(site)["head.count"] == 3


def test_an_upgrade_that_renames_layers_starts_again_and_tells_why(site: Site) -> None:
    trains(site, 1)
    hellos = len(site.said("hello"))
    site.deploy(tasks={"marked": {**TASK, "head": "classifier"}}, uploader="s3")
    site.waits_for("hello", hellos + 1)  # Nucleus Lite restarts a component whose configuration has changed
    reply = trains(site, 2)
    assert reply.metrics["head"] == 0
    assert "array 'classifier.weight' is not among them" in reply.note
    assert "dropped the private arrays of run run-a" in site.log
    assert kept(site).keys() == {"classifier.weight", "classifier.count", "classifier.mark"}


def test_a_kill_right_after_the_upload_counts_the_round_once(site: Site) -> None:
    trains(site, 1)
    hellos = len(site.said("hello"))
    site.tells(work(2))
    eventually(lambda: is_uploaded(site, 2), PATIENCE)
    for process in site.processes:
        os.kill(process, signal.SIGKILL)
    site.waits_for("hello", hellos + 1)
    assert trains(site, 2).round == 2
    assert trains(site, 3).metrics["head"] == 2


def test_a_device_with_another_frozen_base_declines_by_name(site: Site) -> None:
    hellos = len(site.said("hello"))
    site.deploy(tasks={"marked": {**TASK, "base": 2}}, uploader="s3")
    site.waits_for("hello", hellos + 1)
    site.tells(work(1))
    eventually(lambda: any(one.state == "declined" for one in site.said("status")), PATIENCE)
    reason = next(one.reason for one in site.said("status") if one.state == "declined")
    assert "this device has another version of the frozen base" in reason
    assert not is_uploaded(site, 1)
