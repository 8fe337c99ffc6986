"""The code of a task arrives as a component: after its trainer, in new versions, broken, and mended again."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedgrass.console.tasks.task_component import TaskCode, build_task, component_name
from fedgrass.federation.messages import Announcement
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from tests.emulator.local_core import eventually
from tests.integration.device.test_trainer_on_core import PATIENCE, Site, site_on, work

TASK = "marked"
COMPONENT = component_name(TASK)
SOURCE = """
import time
from pathlib import Path

from components.trainer.tasks.noise import Noise
from constants import VERSION

MARK = (Path(__file__).parent / "data" / "mark.txt").read_text()


class {class_name}(Noise):
    def __init__(self, hold: str, megabytes: float = 0.1) -> None:
        super().__init__(megabytes)
        self._hold = Path(hold)

    def fit(self, weights, settings, report, stop):
        while self._hold.exists() and not stop():
            time.sleep(0.05)
        import late
        fit = super().fit(weights, settings, report, stop)
        fit.metrics["version"] = float(VERSION)
        fit.metrics["late"] = float(late.VERSION)
        fit.metrics["mark"] = float(MARK)
        return fit
"""


class Author:
    """Writes versions of a task, and deploys their components to a site's core."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder / "source"
        self.hold = folder / "hold"
        self.output = folder / "published"

    def publishes(self, version: str, *, class_name: str = "Marked", broken: str = "") -> None:
        number = version.partition(".")[0]
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        files: Mapping[str, str] = {
            "marked.py": SOURCE.format(class_name=class_name) + broken,
            "constants.py": f"VERSION = {number}",
            "late.py": f"VERSION = {number}",
            "data/mark.txt": number,
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        code = TaskCode(name=TASK, module=f"marked:{class_name}", folder=self.folder, include=["data"])
        build_task(code, version, self.output)
        running = self.site.running
        recipe = self.output / "recipes" / f"{COMPONENT}.yaml"
        running.run(running.core.deploy(recipe, self.output / "artifacts"))
        running.run(running.core.wait_for(COMPONENT, "FINISHED", PATIENCE))

    def configured(self) -> dict[str, Any]:
        return {TASK: {"component": COMPONENT, "hold": str(self.hold)}}

    def asks(self, number: int) -> None:
        self.site.tells(self.announced(number))

    def announced(self, number: int) -> Announcement:
        return work(number, task=TASK)

    def trained_with(self, completions: int) -> set[float]:
        completion = self.site.waits_for("complete", completions)
        return {completion.train_metrics[name] for name in ("version", "late", "mark")}

    def has_failed(self, times: int) -> None:
        eventually(lambda: [one.state for one in self.site.said("status")].count("failed") == times, PATIENCE)

    def last_status(self, state: str) -> Any:
        eventually(lambda: any(one.state == state for one in self.site.said("status")), PATIENCE)
        return [one for one in self.site.said("status") if one.state == state][-1]


@pytest.fixture
def site(tmp_path: Path, embedded_cloud: EmbeddedCloud, profile: Profile) -> Iterator[Site]:
    with site_on(tmp_path, embedded_cloud, profile) as site:
        yield site


def attributes(site: Site) -> dict[str, Any]:
    return dict(site.said("heartbeat")[-1].attributes)


@pytest.mark.slow
@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
def test_a_task_arrives_after_its_trainer_and_a_new_version_between_two_rounds(
    tmp_path: Path, embedded_cloud: EmbeddedCloud, profile: Profile
) -> None:
    with site_on(tmp_path, embedded_cloud, profile) as site:
        author = Author(site, tmp_path)
        site.deploy(tasks=author.configured(), defer_update_seconds=2)
        heartbeat = site.waits_for("heartbeat")
        assert heartbeat.tasks == ""
        assert heartbeat.configuration_error == (
            f"task 'marked' waits for its component {COMPONENT}, which is not installed yet"
        )
        author.asks(1)
        assert "waits for its component" in author.last_status("declined").reason
        (process,) = site.processes

        author.publishes("1.0.0")
        eventually(lambda: site.said("heartbeat")[-1].tasks == TASK, PATIENCE)
        eventually(lambda: attributes(site).get("version_of_marked") == "1.0.0", PATIENCE)
        assert site.said("heartbeat")[-1].configuration_error == ""
        author.asks(2)
        assert author.trained_with(1) == {1.0}

        author.hold.touch()
        author.asks(3)
        eventually(lambda: site.said("heartbeat")[-1].state == "working", PATIENCE)
        author.publishes("2.0.0")  # the classic nucleus asks the trainer, and waits for it 2 s
        author.hold.unlink()
        assert author.trained_with(2) == {1.0}, "the new version changed a work in progress"
        author.asks(4)
        assert author.trained_with(3) == {2.0}
        assert f"version 2.0.0 of {COMPONENT} is in force" in site.log
        assert process in site.processes, "the trainer was restarted"


@pytest.mark.slow
def test_a_broken_version_is_declined_by_name_until_it_is_mended_also_under_another_class(
    site: Site, tmp_path: Path
) -> None:
    author = Author(site, tmp_path)
    author.publishes("1.0.0")
    site.deploy(tasks=author.configured())
    site.waits_for("hello")
    author.publishes("2.0.0", broken="\nraise RuntimeError('no licence')\n")
    author.asks(1)
    reason = author.last_status("failed").reason
    assert "no licence" in reason
    author.asks(2)
    declined = author.last_status("declined").reason
    assert "no licence" in declined
    assert f"version 2.0.0 of {COMPONENT}" in declined
    eventually(lambda: "no licence" in site.said("heartbeat")[-1].configuration_error, PATIENCE)

    author.publishes("3.0.0", class_name="Renamed")
    eventually(lambda: site.said("heartbeat")[-1].configuration_error == "", PATIENCE)
    author.asks(3)
    assert author.trained_with(1) == {3.0}


@pytest.mark.slow
def test_data_that_are_missing_fail_one_work_and_no_later_one(site: Site, tmp_path: Path) -> None:
    """Unlike a version that cannot be imported: the data may come."""
    author = Author(site, tmp_path)
    author.publishes("1.0.0")
    site.deploy(tasks={TASK: {"component": COMPONENT, "hold": str(author.hold), "megabytes": "-1"}})
    site.waits_for("hello")
    for number in (1, 2):
        author.asks(number)
        author.has_failed(number)
    assert not [one for one in site.said("status") if one.state == "declined"]
