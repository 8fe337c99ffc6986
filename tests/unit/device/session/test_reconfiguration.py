"""Changes of the configuration, with no restart: taken up, or refused with the reason in the heartbeat."""

import random
from pathlib import Path

import pytest

from components.runtime.configuration_watch import ConfigurationWatch
from components.trainer.trainer_configuration import parse_configuration
from fedgrass.federation.messages import Heartbeat
from tests.fakes.memory_device import Device, MemoryHost, configure


class Configured:
    """A device whose session is configured by a nucleus."""

    def __init__(self, folder: Path, *, unwatched: int = 0) -> None:
        self.device = Device(folder, heartbeat_seconds=10)
        self.nucleus = MemoryHost({"fleet": "plant", "tasks": {"digits": {}}})
        self.nucleus.unwatched = unwatched
        ConfigurationWatch(
            self.device.loop,
            self.nucleus,
            random.Random(5),  # noqa: S311 - jitter
            parse=parse_configuration,
            apply=self.device.session.configure,
            refuse=self.device.session.refuse_configuration,
        ).start()

    def beat(self) -> Heartbeat:
        self.device.passes(70)
        found = self.device.said("heartbeat")[-1]
        assert isinstance(found, Heartbeat)
        return found


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    return Configured(tmp_path)


def test_a_change_is_taken_up_with_strings_for_numbers(configured: Configured) -> None:
    configured.nucleus.change(tasks={"noise": {"megabytes": "2"}}, heartbeat_seconds="5")
    assert (configured.beat().tasks, configured.beat().configuration_error) == ("noise", "")


def test_many_changed_values_are_read_once(configured: Configured) -> None:
    configured.nucleus.change(times=50, tasks={"noise": {}})
    configured.beat()
    assert configured.nucleus.reads == 1


def test_a_value_that_cannot_be_used_is_in_the_heartbeat_and_the_old_ones_hold(
    configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    configured.nucleus.change(tasks={"noise": {}}, threads="many")
    beat = configured.beat()
    assert beat.tasks == "digits,noise"
    assert beat.configuration_error == (
        "the configuration's threads is 'many': it takes a whole number from 1 to 1,024"
    )
    assert f"the configuration stays as it was: {beat.configuration_error}" in caplog.text


def test_the_reason_goes_once_the_configuration_is_mended(configured: Configured) -> None:
    configured.nucleus.change(threads="many")
    assert configured.beat().configuration_error
    configured.nucleus.change(threads="2")
    assert configured.beat().configuration_error == ""


def test_a_nucleus_that_does_not_answer_is_asked_again(configured: Configured) -> None:
    configured.nucleus.failures = 4
    configured.nucleus.change(tasks={"noise": {}})
    assert configured.beat().tasks == "noise"
    assert configured.nucleus.reads == 5


def test_a_change_while_the_nucleus_does_not_answer_takes_the_place_of_the_first(
    configured: Configured,
) -> None:
    configured.nucleus.failures = 1
    configured.nucleus.change(tasks={"noise": {}})
    configured.device.passes(0.6, step=0.1)
    configured.nucleus.change(tasks={"mnist": {}})
    assert configured.beat().tasks == "mnist"
    assert configured.nucleus.reads == 2


@pytest.mark.parametrize("reason", ["x" * 9999, '"' * 300, "\x00" * 300, "\u20ac" * 300])
def test_whatever_the_reason_is_the_heartbeat_fits(tmp_path: Path, reason: str) -> None:
    device = Device(tmp_path)
    device.session.refuse_configuration(reason)
    before = len(device.said("heartbeat"))
    device.passes(70)
    assert len(device.said("heartbeat")) > before


def test_a_bandwidth_that_stream_manager_does_not_heed_is_refused_with_the_way_out(
    configured: Configured,
) -> None:
    configured.nucleus.change(upload_bytes_per_second=50_000)
    assert "only the uploader 's3' heeds: choose that" in configured.beat().configuration_error
    configured.nucleus.change(uploader="s3")
    assert configured.beat().configuration_error == ""
    assert configure(uploader="s3", upload_bytes_per_second="50000").upload_bytes_per_second == 50_000


def test_a_configuration_that_could_not_be_watched_at_first_is_watched_and_read_later(tmp_path: Path) -> None:
    configured = Configured(tmp_path, unwatched=3)
    configured.nucleus.values["tasks"] = {"noise": {}}  # without a report
    assert configured.beat().tasks == "noise"
    configured.nucleus.change(tasks={"digits": {}})
    assert configured.beat().tasks == "digits"
