"""The install step of a task's component, run as the recipe runs it: one file, by itself."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from components.trainer.tasks.task_release import installed_release
from fedgrass.console.tasks.frozen_requirements import frozen
from fedgrass.console.tasks.task_component import TaskCode, build_task
from tests.fakes.wheels import write_wheel

COMPONENT = "com.fedgrass.task.cracks"


def built(folder: Path, version: str, text: str = "", **other: Any) -> Path:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "cracks.py").write_text(text or f"VERSION = {version!r}\n")
    code = TaskCode(name="cracks", module="cracks:Cracks", folder=source, **other)
    build_task(code, version, folder)
    return folder / "artifacts" / COMPONENT / version / "task.zip"


def run(archive: Path, work: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", str(archive), *words]
    return subprocess.run(
        command, cwd=work, input=given, capture_output=True, text=True, timeout=110, check=False
    )


def test_a_version_is_unpacked_and_then_in_force_without_touching_the_last(tmp_path: Path) -> None:
    work = tmp_path / COMPONENT
    assert run(built(tmp_path, "1.0.0"), work, "--python", "-", given="\n").returncode == 0
    first = installed_release("cracks", COMPONENT, tmp_path)
    assert run(built(tmp_path, "2.0.0"), work).returncode == 0
    second = installed_release("cracks", COMPONENT, tmp_path)
    assert (first.version, second.version) == ("1.0.0", "2.0.0")
    for release in (first, second):
        assert (Path(release.path) / "cracks.py").read_text() == f"VERSION = {release.version!r}\n"


def test_it_runs_again_at_each_start_and_returns_to_an_earlier_version(tmp_path: Path) -> None:
    """As the nucleus does, and as a rollback does."""
    work = tmp_path / COMPONENT
    first, second = built(tmp_path, "1.0.0"), built(tmp_path, "2.0.0")
    for archive in (first, first, second, second, first):
        assert run(archive, work).returncode == 0
    assert installed_release("cracks", COMPONENT, tmp_path).version == "1.0.0"
    assert len(list((work / "releases").iterdir())) == 2


def test_only_the_last_releases_are_kept(tmp_path: Path) -> None:
    work = tmp_path / COMPONENT
    for number in range(6):
        run(built(tmp_path, f"1.{number}.0"), work)
        (current,) = (work / "releases").glob(f"1.{number}.0-*")
        os.utime(current, (number, number))  # the clock of the file system may be coarse
    kept = sorted(path.name.partition("-")[0] for path in (work / "releases").iterdir())
    assert kept == ["1.3.0", "1.4.0", "1.5.0"]


def test_the_same_version_with_other_files_is_another_release(tmp_path: Path) -> None:
    """A developer who deploys to an emulated core keeps the version."""
    work = tmp_path / COMPONENT
    run(built(tmp_path, "1.0.0", "ONE = 1\n"), work)
    run(built(tmp_path, "1.0.0", "TWO = 2\n"), work)
    path = Path(installed_release("cracks", COMPONENT, tmp_path).path)
    assert (path / "cracks.py").read_text() == "TWO = 2\n"


def test_an_interrupted_installation_is_repeated(tmp_path: Path) -> None:
    work = tmp_path / COMPONENT
    archive = built(tmp_path, "1.0.0")
    run(archive, work)
    release = Path(installed_release("cracks", COMPONENT, tmp_path).path)
    unfinished = release.with_name(f".{release.name}.unfinished")
    release.rename(unfinished)
    (unfinished / "rubbish.py").touch()
    assert run(archive, work).returncode == 0
    assert [path.name for path in release.iterdir()] == ["cracks.py"]


def test_a_device_without_greengrass_installs_next_to_its_work_folder(tmp_path: Path) -> None:
    done = run(built(tmp_path, "1.0.0"), tmp_path / "elsewhere", "--into", str(tmp_path))
    assert done.returncode == 0
    assert f"{COMPONENT} 1.0.0 is installed in {tmp_path}" in done.stdout
    assert installed_release("cracks", COMPONENT, tmp_path).version == "1.0.0"


def test_a_damaged_artifact_leaves_what_is_in_force(tmp_path: Path) -> None:
    work = tmp_path / COMPONENT
    run(built(tmp_path, "1.0.0"), work)
    archive = built(tmp_path, "2.0.0")
    archive.write_bytes(archive.read_bytes()[:-200])
    done = run(archive, work)
    assert done.returncode != 0
    assert installed_release("cracks", COMPONENT, tmp_path).version == "1.0.0"


@pytest.mark.slow
def test_bundled_requirements_are_installed_by_their_hashes_and_only_once(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "wheels", "cracklib")
    digest = __import__("hashlib").sha256(wheel.read_bytes()).hexdigest()
    pinned = frozen({("amd64", "3.12"): {"cracklib": f"cracklib==1.0 \\\n    --hash=sha256:{digest}"}})
    work = tmp_path / COMPONENT
    archive = built(tmp_path, "1.0.0", requirements=pinned, wheels=[wheel])
    done = run(archive, work, "--python", "-", given=f"{sys.executable}\n")
    assert done.returncode == 0, done.stderr
    release = installed_release("cracks", COMPONENT, tmp_path)
    assert release.python == ".".join(map(str, sys.version_info[:2]))
    packages = Path(release.packages)
    assert (packages / "cracklib.py").read_text() == "VERSION = '1.0'\n"
    assert not (work / "tools").exists()

    (packages / "mark").touch()
    again = built(tmp_path, "1.1.0", requirements=pinned, wheels=[wheel])
    assert run(again, work).returncode == 0
    newer = installed_release("cracks", COMPONENT, tmp_path)
    assert (newer.version, newer.packages) == ("1.1.0", release.packages)
    assert (packages / "mark").exists(), "the same requirements were installed again"


@pytest.mark.slow
@pytest.mark.parametrize("hashes", [f" --hash=sha256:{'0' * 64}", ""], ids=["another", "none"])
def test_a_requirement_with_another_hash_fails_and_leaves_what_is_in_force(
    tmp_path: Path, hashes: str
) -> None:
    work = tmp_path / COMPONENT
    run(built(tmp_path, "1.0.0"), work)
    wheel = write_wheel(tmp_path / "wheels", "cracklib")
    archive = built(tmp_path, "2.0.0", requirements=f"cracklib==1.0{hashes}\n", wheels=[wheel])
    done = run(archive, work)
    assert done.returncode == 1
    assert "the requirements of the task cannot be installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert installed_release("cracks", COMPONENT, tmp_path).version == "1.0.0"


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    archive = built(tmp_path, "1.0.0", requirements=f"cracklib==1.0 --hash=sha256:{'0' * 64}\n")
    done = run(archive, tmp_path / COMPONENT, "--python", "-", given="/opt/none/python\n")
    assert done.returncode == 1
    assert "the interpreter /opt/none/python does not run" in done.stderr


def test_the_artifact_says_what_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(built(tmp_path, "1.0.0")) as archive:
        assert json.loads(archive.read("task.json"))["component"] == COMPONENT
