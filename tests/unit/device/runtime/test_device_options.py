"""Options of one device: how they are merged, and when a changed one is read."""

import json
import random
from pathlib import Path

import pytest

from components.runtime.component_errors import ConfigurationError
from components.runtime.configuration_watch import OPTIONS_SECONDS, ConfigurationWatch
from components.runtime.device_options import merge_device_options
from tests.fakes.memory_device import Device, MemoryHost

TASKS = {"digits": {"share": 0, "shares": 10}, "noise": None}


def merged(options: object) -> object:
    return merge_device_options({"fleet": "plant", "tasks": TASKS}, json.dumps(options))["tasks"]


def test_options_of_the_device_come_before_those_of_the_group() -> None:
    assert merged({"digits": {"share": 3, "split": "label"}}) == {
        "digits": {"share": 3, "shares": 10, "split": "label"},
        "noise": None,
    }


@pytest.mark.parametrize("text", ["", "{}", '{"digits": {}}'])
def test_no_options_change_nothing(text: str) -> None:
    given = {"fleet": "plant", "tasks": TASKS}
    assert merge_device_options(given, text) == given


def test_a_task_that_the_device_does_not_have_is_not_added(caplog: pytest.LogCaptureFixture) -> None:
    assert merged({"cracks": {"folder": "/data"}, "noise": {"megabytes": 2}}) == TASKS
    assert "the device has options of tasks that it does not have: cracks" in caplog.text


@pytest.mark.parametrize("text", ["{", "3", "null", "[]", '{"digits": null}', '{"digits": []}', "[" * 9999])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"the configuration of com\.fedgrass\.DeviceOptions has options"
    ):
        merge_device_options({"tasks": TASKS}, text)


def test_the_configuration_given_is_not_changed() -> None:
    given = {"tasks": {"digits": {"share": 0}}}
    merge_device_options(given, '{"digits": {"share": 3}}')
    assert given == {"tasks": {"digits": {"share": 0}}}


def test_changed_options_are_read_within_the_interval_and_once(tmp_path: Path) -> None:
    device, nucleus = Device(tmp_path), MemoryHost({"fleet": "plant", "tasks": {"digits": {}}})
    applied: list[object] = []
    ConfigurationWatch(
        device.loop,
        nucleus,
        random.Random(5),  # noqa: S311 - jitter
        parse=dict,
        apply=applied.append,
        refuse=lambda _: None,
    ).start()
    device.passes(OPTIONS_SECONDS + 2)
    assert (nucleus.reads, applied) == (0, [])
    nucleus.options_changed = True
    device.passes(OPTIONS_SECONDS + 2)
    assert len(applied) == 1
    device.passes(4 * OPTIONS_SECONDS)
    assert nucleus.reads == 1


def test_a_read_that_is_retried_is_not_put_off_by_the_next_look(tmp_path: Path) -> None:
    device, nucleus = Device(tmp_path), MemoryHost({"fleet": "plant", "tasks": {"digits": {}}})
    applied: list[object] = []
    watch = ConfigurationWatch(
        device.loop,
        nucleus,
        random.Random(5),  # noqa: S311 - jitter
        parse=dict,
        apply=applied.append,
        refuse=lambda _: None,
    )
    watch.start()
    nucleus.options_changed, nucleus.failures = True, 8
    for _ in range(600):
        device.passes(1)
        nucleus.options_changed = not applied  # a failed read does not take them up
    assert len(applied) == 1
    assert nucleus.reads == 9
    assert watch.changes == 1
