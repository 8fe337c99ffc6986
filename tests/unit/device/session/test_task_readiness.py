"""Tasks whose code comes as a component: awaited, in force, broken, and mended again."""

from pathlib import Path

import msgspec
import pytest

from components.runtime.component_errors import ConfigurationError
from components.trainer.session.task_readiness import TaskReadiness, attribute_of
from components.trainer.tasks.task_release import NotInstalled, Release
from components.trainer.worker.worker_protocol import Failure, TaskOptions
from fedgrass.federation.messages import Heartbeat, Status, encode
from tests.fakes.memory_device import Device, announcement

COMPONENT = "com.fedgrass.task.cracks"
OPTIONS: TaskOptions = {"component": COMPONENT, "folder": "/data"}


class Releases:
    """The releases that are installed on a device, by component."""

    def __init__(self) -> None:
        self.installed: dict[str, Release] = {}

    def install(self, version: str, component: str = COMPONENT, packages: str = "") -> None:
        self.installed[component] = Release(
            component=component,
            version=version,
            module="cracks:Cracks",
            path=f"/{version}",
            packages=packages,
        )

    def find(self, name: str, component: str) -> Release:
        if component not in self.installed:
            message = f"task {name!r} waits for its component"
            raise NotInstalled(message)
        return self.installed[component]


@pytest.fixture
def releases() -> Releases:
    return Releases()


@pytest.fixture
def device(tmp_path: Path, releases: Releases) -> Device:
    return Device(
        tmp_path,
        readiness=TaskReadiness(releases.find),
        tasks={"cracks": OPTIONS, "noise": {}},
        heartbeat_seconds=10,
    )


def beat(device: Device) -> Heartbeat:
    device.passes(15)
    found = device.said("heartbeat")[-1]
    assert isinstance(found, Heartbeat)
    return found


def declined(device: Device) -> str:
    found = device.said("status")[-1]
    assert isinstance(found, Status)
    assert found.state == "declined"
    return found.reason


def test_a_task_that_is_not_there_is_not_offered_and_declined_by_name(device: Device) -> None:
    found = beat(device)
    assert found.tasks == "noise"
    assert found.configuration_error == "task 'cracks' waits for its component"
    device.hears(announcement(task="cracks"))
    assert declined(device) == "task 'cracks' waits for its component"
    assert device.bench.works == []


def test_a_task_that_arrives_is_offered_without_a_restart_or_a_change_of_the_configuration(
    device: Device, releases: Releases
) -> None:
    beat(device)
    releases.install("1.2.0", packages="/packages")
    found = beat(device)
    assert (found.tasks, found.configuration_error) == ("cracks,noise", "")
    assert found.attributes["version_of_cracks"] == "1.2.0"
    device.hears(announcement(task="cracks"))
    (work,) = device.bench.works
    assert work.options == {"module": "cracks:Cracks", "path": "/1.2.0", "folder": "/data"}
    assert work.packages == "/packages"


def test_a_version_that_cannot_be_loaded_fails_once_and_is_declined_until_another_comes(
    device: Device, releases: Releases
) -> None:
    releases.install("1.2.0")
    device.hears(announcement(1, task="cracks"))
    device.bench.says(Failure("no module named torchvision", unloadable=True))
    device.hears(announcement(2, task="cracks"))
    reason = f"no module named torchvision (version 1.2.0 of {COMPONENT})"
    assert declined(device) == reason
    assert beat(device).configuration_error.startswith("no module named torchvision")
    assert beat(device).tasks == "cracks,noise"
    releases.install("1.3.0")
    assert beat(device).configuration_error == ""
    device.hears(announcement(3, task="cracks"))
    assert device.bench.works[-1].options["path"] == "/1.3.0"


def test_other_tasks_are_worked_on_while_one_is_broken(device: Device, releases: Releases) -> None:
    releases.install("1.2.0")
    device.hears(announcement(1, task="cracks"))
    device.bench.says(Failure("broken", unloadable=True))
    device.hears(announcement(1, run="run-b", task="noise"))
    assert device.bench.works[-1].announcement.task == "noise"


def test_a_work_that_fails_for_another_reason_is_tried_again(device: Device, releases: Releases) -> None:
    releases.install("1.2.0")
    device.hears(announcement(1, task="cracks"))
    device.bench.says(Failure("there is no /data/images.pt"))
    device.hears(announcement(2, task="cracks"))
    assert len(device.bench.works) == 2


def test_a_task_without_a_component_is_tried_again(device: Device) -> None:
    """Its files may have been mended in place."""
    device.hears(announcement(1, task="noise"))
    device.bench.says(Failure("no module named noise", unloadable=True))
    device.hears(announcement(2, task="noise"))
    assert len(device.bench.works) == 2


def test_a_long_reason_leaves_room_for_the_version(device: Device, releases: Releases) -> None:
    releases.install("1.2.0")
    device.hears(announcement(1, task="cracks"))
    device.bench.says(Failure("x" * 500, unloadable=True))
    device.hears(announcement(2, task="cracks"))
    assert declined(device).endswith(f"(version 1.2.0 of {COMPONENT})")


def test_changed_options_give_a_broken_task_another_try(releases: Releases) -> None:
    readiness = TaskReadiness(releases.find)
    releases.install("1.2.0")
    found, _ = readiness.ready("cracks", OPTIONS)
    readiness.cannot_be_loaded("cracks", found, "it takes no folder")
    with pytest.raises(ConfigurationError, match="it takes no folder"):
        readiness.ready("cracks", OPTIONS)
    readiness.ready("cracks", {"component": COMPONENT})


def test_a_component_that_is_taken_away_is_waited_for_again(device: Device, releases: Releases) -> None:
    releases.install("1.2.0")
    assert beat(device).tasks == "cracks,noise"
    releases.installed.clear()
    found = beat(device)
    assert found.tasks == "noise"
    assert "version_of_cracks" not in found.attributes


def test_a_completion_states_the_versions_of_the_code_that_was_in_force_as_the_work_began(
    device: Device, releases: Releases
) -> None:
    releases.install("1.2.0")
    device.hears(announcement(task="cracks"))
    releases.install("1.3.0")
    beat(device)
    device.finishes()
    device.hears(announcement(2, task="noise"))
    device.finishes()
    assert [completion.code for completion in device.completions][:2] == [
        "trainer 1.2.3, cracks 1.2.0",
        "trainer 1.2.3",
    ]


def test_versions_never_make_a_heartbeat_too_large(releases: Releases) -> None:
    readiness = TaskReadiness(releases.find)
    tasks: dict[str, TaskOptions] = {}
    for number in range(30):
        name = f"a-task-with-a-long-name-{number:02}"
        tasks[name] = {"component": name}
        releases.install("999999.999999.999999-" + "x" * 40, component=name)
    full = {f"attribute_{number}": "x" for number in range(14)}
    versions = readiness.versions(tasks, len(full))
    assert 0 < len(versions) <= 2
    heartbeat = Heartbeat(
        state="idle", tasks="", examples=0, component_version="1", uptime_seconds=1.0,
        attributes={**full, **versions},
    )  # fmt: skip
    assert msgspec.json.decode(encode(heartbeat))
    assert readiness.versions(tasks, 16) == {}


def test_the_attribute_of_a_version_can_stand_in_a_where() -> None:
    assert attribute_of("wind-power") == "version_of_wind_power"
    assert attribute_of("flower:mean-of") == "version_of_flower_mean_of"
    assert len(attribute_of("x" * 32)) == 32
