"""The whole trainer on a core whose services go down: the token exchange service, then Stream Manager."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedgrass.federation import weights
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.faults.fault_injection import FaultInjector
from greengrass_emulator.stream_manager.stream_server import StreamManager
from package import build_component
from tests.cloud_credentials import temporary_credentials
from tests.emulator.local_core import CoreInThread, eventually, settings
from tests.integration.device.noise_work import MODEL, MODEL_KEY, without_default_tasks
from tests.integration.device.test_trainer_on_core import BUCKET, NAME, PATIENCE, Site, work
from tests.integration.device.test_trainer_stream_upload import Gate

KEY = "updates/device-1/run-a/31-1.safetensors"


class FaultySite(Site):
    """A site whose core owns its Stream Manager, whose exports wait for a gate."""

    gate: Gate
    injector: FaultInjector

    def inject(self, fault: str) -> None:
        self.running.run(self.injector.inject(fault))

    def clear(self, fault: str) -> None:
        self.running.run(self.injector.clear(fault))

    def waits_for_work_error(self, *words: str) -> None:
        """Wait for a heartbeat that names why the work waits."""

        def named() -> bool:
            reasons = [heartbeat.work_error for heartbeat in self.said("heartbeat")]
            return any(all(word in reason for word in words) for reason in reasons)

        eventually(named, PATIENCE)


@contextmanager
def faulty_site(folder: Path, cloud: EmbeddedCloud, profile: Profile) -> Iterator[FaultySite]:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=MODEL_KEY, Body=MODEL)
    build_component(NAME, "1.2.3", "tests", folder / "build")
    without_default_tasks(folder / "build" / "recipes" / f"{NAME}.yaml")
    gate = Gate(s3)
    streams = StreamManager(folder / "streams", gate.client, first_retry_seconds=0.02)
    with ExitStack() as stack:
        running = CoreInThread(folder / "core", profile)
        stack.callback(running.close)
        port = running.run(streams.start())
        stack.callback(lambda: running.run(streams.stop()))
        variables = {"AWS_ENDPOINT_URL": cloud.endpoint_url, "STREAM_MANAGER_SERVER_PORT": str(port)}
        running.core = GreengrassCore(
            settings(
                folder / "core",
                profile,
                credentials=lambda: temporary_credentials(cloud),
                environment=variables,
                stream_manager=streams,
            ),
            lambda: running.connection,
        )
        running.run(running.core.start())
        site = FaultySite(running, folder / "build", folder / "core", s3)
        site.gate, site.injector = gate, FaultInjector(running.core)
        yield site


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
def test_the_trainer_outlives_both_services_and_its_update_arrives(
    tmp_path: Path, embedded_cloud: EmbeddedCloud, profile: Profile
) -> None:
    with faulty_site(tmp_path, embedded_cloud, profile) as site:
        site.gate.open = False
        site.deploy()
        site.waits_for("hello")
        (trainer,) = site.processes

        site.inject("token-exchange-down")
        site.tells(work(31, deadline_seconds=300))
        site.waits_for_work_error("credentials")
        assert site.gate.asked == 0
        assert trainer in site.processes
        site.clear("token-exchange-down")  # on another port than before

        eventually(lambda: site.gate.asked > 0, PATIENCE)  # the update is being exported
        site.inject("stream-manager-down")
        site.waits_for_work_error("Stream Manager")
        assert trainer in site.processes
        assert site.said("complete") == []
        site.gate.open = True
        site.clear("stream-manager-down")

        completion = site.waits_for("complete")
        update = site.s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
        assert (len(update), weights.checksum(update)) == (completion.bytes, completion.checksum)
        eventually(lambda: site.said("heartbeat")[-1].work_error == "", PATIENCE)
        # The same process throughout: neither profile restarts a SOFT dependent.
        assert trainer in site.processes
        assert len(site.said("hello")) == 1
        assert [status.state for status in site.said("status") if status.state != "progress"] == ["accepted"]
