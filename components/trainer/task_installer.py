"""The install step of a task's component: ``fedgrass task publish`` puts this file into the artifact.

    python3 -I task.zip                   installs into the current folder, the component's work folder
    python3 -I task.zip --python -        reads the interpreter of the trainer from standard input
    python3 -I task.zip --into FOLDER     for devices without Greengrass: into FOLDER/<component>

It unpacks the files into ``releases/<version>-<digest>``, the requirements into ``packages/<digest>``, and
then replaces ``release.json``: a trainer never sees half a version. Earlier releases that a training may
still use are kept. It runs again at each start of the nucleus, and then finds everything done. It needs only
the standard library of Python 3.7 or later.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

MANIFEST = "task.json"
REQUIREMENTS = "requirements.txt"
FILES = "files/"  # the prefix of the task's own files
WHEELS = "wheels/"  # the prefix of bundled requirements
_RELEASE_FILE = "release.json"
_KEPT = 3  # releases: the current one, and two that a training in progress may have started with
_STEP_SECONDS = 870.0  # a little less than the recipe's own time-out, so that the log has the reason
_CHECK_SECONDS = 60.0
_STARTED = time.monotonic()
_FROM_INPUT = "-"
_PART_BYTES = 1 << 20


class InstallError(Exception):
    """The task cannot be installed; the text names the reason and a remedy."""


def main() -> int:
    """Run the step; return its exit code."""
    parser = argparse.ArgumentParser(description="Installs a task of fedgrass.")
    parser.add_argument("--python", default="", help="the trainer's interpreter, if it is configured")
    parser.add_argument("--into", default="", help="the parent of the work folders (Greengrass sets it)")
    given = parser.parse_args()
    # The recipe passes the configured value on standard input, so that no shell interprets it.
    python = sys.stdin.read().strip("\n") if given.python == _FROM_INPUT else given.python
    try:
        release = install(Path(__file__).parent, given.into, python)
    except (InstallError, OSError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{release['component']} {release['version']} is installed in {release['path']}\n")
    return 0


def install(archive: Path, into: str = "", python: str = "") -> "dict[str, str]":
    """Install an artifact; return what ``release.json`` names.

    Args:
        archive: the artifact.
        into: the parent of the components' work folders; empty: the current folder is the work folder.
        python: the interpreter that will import the task; empty: this one.

    Raises:
        InstallError: the requirements cannot be installed.
    """
    digest = _digest(archive)
    with zipfile.ZipFile(archive) as content:
        manifest = json.loads(content.read(MANIFEST).decode("utf-8"))
        work = (Path(into) / manifest["component"] if into else Path()).absolute()
        release = work / "releases" / f"{manifest['version']}-{digest}"
        if not release.is_dir():
            _unpack(content, FILES, release)
        packages, version = "", ""
        if REQUIREMENTS in content.namelist():
            packages, version = _packages(content, work, python or sys.executable)
    described = {
        "component": manifest["component"],
        "version": manifest["version"],
        "module": manifest["module"],
        "path": str(release),
        "packages": packages,
        "python": version,
    }
    _replace(work / _RELEASE_FILE, described)
    os.utime(release)  # the latest of those that are kept
    _clean(release)
    if packages:
        os.utime(packages)
        _clean(Path(packages))
    return described


def _digest(archive: Path) -> str:
    """Return the start of the SHA-256 of a file, which may be larger than the memory."""
    found = hashlib.sha256()
    with archive.open("rb") as file:
        for part in iter(lambda: file.read(_PART_BYTES), b""):
            found.update(part)
    return found.hexdigest()[:12]


def _unpack(content: zipfile.ZipFile, prefix: str, folder: Path) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(str(unfinished), ignore_errors=True)
    for name in content.namelist():
        if name.startswith(prefix):
            target = unfinished / name[len(prefix) :]
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    unfinished.rename(folder)


def _packages(content: zipfile.ZipFile, work: Path, python: str) -> "tuple[str, str]":
    """Return the folder of the installed requirements, and the version of Python that they are for."""
    version = _run(
        [python, "-I", "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
        _CHECK_SECONDS,
        f"the interpreter {python} does not run",
    ).strip()
    listed = content.read(REQUIREMENTS)
    digest = hashlib.sha256(listed + version.encode()).hexdigest()[:12]
    folder = work / "packages" / digest
    if folder.is_dir():
        return str(folder), version
    unfinished = folder.with_name(f".{digest}.unfinished")
    tools = work / "tools"
    for old in (unfinished, tools):
        shutil.rmtree(str(old), ignore_errors=True)
    # pip comes from a separate environment: Debian refuses it outside of one, and the trainer's
    # interpreter may have none.
    unfinished.mkdir(parents=True)
    _run(
        [sys.executable, "-I", "-m", "venv", str(tools)],
        _CHECK_SECONDS,
        "no virtual environment can be created (on Debian and Ubuntu: apt-get install python3-venv)",
    )
    requirements = tools / REQUIREMENTS
    requirements.write_bytes(listed)
    wheels = tools / "wheels"
    if any(name.startswith(WHEELS) for name in content.namelist()):
        _unpack(content, WHEELS, wheels)
    # The list is complete: nothing is resolved, nothing else is installed, each file is checked by its hash.
    pip = [str(tools / "bin" / "python"), "-I", "-m", "pip", "--isolated", "--python", python, "install"]
    pip += ["--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    pip += ["--require-hashes", "--target", str(unfinished), "-r", str(requirements)]
    if wheels.is_dir():
        pip += ["--no-index", "--find-links", str(wheels)]
    left = _STEP_SECONDS - (time.monotonic() - _STARTED)
    _run(pip, left, "the requirements of the task cannot be installed")
    shutil.rmtree(str(tools), ignore_errors=True)
    unfinished.rename(folder)
    return str(folder), version


def _replace(file: Path, described: "dict[str, str]") -> None:
    unfinished = file.with_name(file.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as opened:
        json.dump(described, opened, indent=2)
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(file)


def _clean(current: Path) -> None:
    """Remove all but the latest folders next to the current one."""
    others = [one for one in current.parent.iterdir() if one != current]
    others.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    for old in others[_KEPT - 1 :]:
        shutil.rmtree(str(old), ignore_errors=True)


def _run(command: "list[str]", seconds: float, failure: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command, check=True, timeout=seconds, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
    except subprocess.TimeoutExpired as error:
        message = f"{failure}: it took longer than {seconds:.0f} s"
        raise InstallError(message) from error
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"{failure}: {error}"
        raise InstallError(message) from error
    return done.stdout.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
