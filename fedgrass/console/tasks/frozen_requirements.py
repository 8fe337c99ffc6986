"""Pin the requirements of a task: every package with version and hashes, for each platform and Python.

The trainer's own packages are constraints: a task may use them, and is refused by name if it needs another
version of one. What remains is installed next to them. uv resolves, for platforms other than this one too.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from uv import find_uv_bin

from components.trainer import install
from fedgrass.console.options import read_text
from fedgrass.console.tasks.task_component import PLATFORMS
from fedgrass.federation.errors import SettingsError

PYTHONS = ("3.11", "3.12", "3.13", "3.14")  # of the trainer's own environment
_SECONDS = 600.0
_AT_ONCE = 8
_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<hashes>( \\\n    --hash=\S+)+)$", re.MULTILINE
)
_LIBRARIES = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
Target = tuple[str, str]  # Greengrass's architecture and the version of Python
Pins = dict[str, str]  # package name -> its line, with version and hashes


@cache
def trainer_pins() -> Mapping[str, str]:
    """Return the version of each package of the trainer, by canonical name."""
    texts = [file.read_text(encoding="utf-8") for file in (install.REQUIREMENTS, install.TORCH_REQUIREMENTS)]
    return {
        canonicalize_name(found["name"]): found["version"] for text in texts for found in _PIN.finditer(text)
    }


def read_requirements(file: Path) -> list[Requirement]:
    """Return the requirements in a file.

    Raises:
        SettingsError: a line does not name a package of an index, or conflicts with a package of the trainer.
    """
    wanted = []
    for number, raw in enumerate(read_text(file, named="--requirements").splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        requirement = parse_requirement(line, f"{file}:{number}")
        check_against_trainer(requirement, f"{file}:{number}", "allow that version")
        wanted.append(requirement)
    return wanted


def parse_requirement(line: str, place: str) -> Requirement:
    """Return a requirement. Raises SettingsError if it does not name a package of an index."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        message = (
            f"{place}: {line!r} is not a requirement such as pandas>=2 (options and paths are not accepted)"
        )
        raise SettingsError(message) from error
    if requirement.url:
        message = (
            f"{place}: {line!r} is installed from an address, which cannot be pinned: name a package of an"
            " index"
        )
        raise SettingsError(message)
    return requirement


def check_against_trainer(requirement: Requirement, place: str, way_out: str) -> None:
    """Check a requirement. Raises SettingsError if it does not admit the trainer's version of its package."""
    pinned = trainer_pins().get(canonicalize_name(requirement.name))
    if pinned and not requirement.specifier.contains(pinned, prereleases=True):
        message = (
            f"{place}: {str(requirement)!r} conflicts with the trainer, which has {requirement.name}"
            f" {pinned}: {way_out}, or run the trainer with another interpreter (its setting `python`)"
        )
        raise SettingsError(message)


def resolve(wanted: Sequence[Requirement], targets: Sequence[Target]) -> dict[Target, Pins]:
    """Return the pinned packages per target, without those of the trainer.

    Raises:
        SettingsError: they cannot be met on a target, or conflict with the trainer's; the text has the names.
    """
    own = trainer_pins()
    found: dict[Target, Pins] = {}
    uv = find_uv_bin()  # not in the threads: sysconfig's first use is not safe there in Python 3.11
    with tempfile.TemporaryDirectory(prefix="fedgrass-requirements-") as name:
        folder = Path(name)
        (folder / "wanted.in").write_text("".join(f"{one}\n" for one in wanted), encoding="utf-8")
        pins = "".join(f"{package}=={version}\n" for package, version in own.items())
        (folder / "trainer.txt").write_text(pins, encoding="utf-8")
        with ThreadPoolExecutor(_AT_ONCE) as threads:  # most of the time is spent waiting for the index
            texts = threads.map(partial(_compiled, uv, folder), targets)
            for target, text in zip(targets, texts, strict=True):
                lines = {str(canonicalize_name(one["name"])): one[0] for one in _PIN.finditer(text)}
                found[target] = {package: line for package, line in lines.items() if package not in own}
    return found


def frozen(resolved: Mapping[Target, Pins]) -> str:
    """Return one requirements file for all targets; packages that differ between them have markers."""
    lines: dict[tuple[str, str], list[Target]] = {}
    for target, pins in resolved.items():
        for package, line in pins.items():
            lines.setdefault((package, line), []).append(target)
    return "".join(f"{_marked(line, having, resolved)}\n" for (_, line), having in sorted(lines.items()))


def download(resolved: Mapping[Target, Pins], folder: Path) -> list[Path]:
    """Download the files of all packages for all targets; return their paths, sorted.

    Raises:
        SettingsError: a file cannot be downloaded.
    """
    for (platform, python), pins in resolved.items():
        listed = folder / "pinned.txt"
        listed.write_text("".join(f"{line}\n" for line in pins.values()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder)]
        command += [f"--platform={libraries}_{PLATFORMS[platform]}" for libraries in _LIBRARIES]
        command += ["--python-version", python, "--requirement", str(listed)]
        _run(command, f"the requirements for {platform} and Python {python} cannot be downloaded")
    return sorted(folder.glob("*.whl"))


def _compiled(uv: str, folder: Path, target: Target) -> str:
    platform, python = target
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--system-certs"]
    command += ["--generate-hashes", "--only-binary", ":all:", "--constraint", str(folder / "trainer.txt")]
    command += ["--python-platform", f"{PLATFORMS[platform]}-unknown-linux-gnu", "--python-version", python]
    # Only wheels are read, so any interpreter will do: without one uv searches the machine, for seconds.
    command += ["--python", sys.executable, str(folder / "wanted.in")]
    return _run(command, f"the requirements cannot be met on {platform} with Python {python}")


def _run(command: Sequence[str], failure: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{failure}: {error}"
        raise SettingsError(message) from error
    if done.returncode:
        message = f"{failure}: {_reason(done.stderr)}"
        raise SettingsError(message)
    return done.stdout


def _reason(text: str) -> str:
    """Return the causes that a resolver reports, in one line."""
    lines = [line.strip().removeprefix("error: ").removeprefix("cause: ") for line in text.splitlines()]
    return (
        " ".join(line for line in lines if line and not line.startswith("No solution found"))
        or "no reason given"
    )


def _marked(line: str, having: Sequence[Target], all_targets: Mapping[Target, Pins]) -> str:
    if len(having) == len(all_targets):
        return line
    machines = {platform for platform, _ in all_targets}
    pythons = {python for _, python in all_targets}
    if all((platform, python) in having for platform, python in product(machines, {p for _, p in having})):
        terms = [f'python_version == "{python}"' for python in sorted({python for _, python in having})]
    elif all((platform, python) in having for platform, python in product({m for m, _ in having}, pythons)):
        terms = [f'platform_machine == "{PLATFORMS[one]}"' for one in sorted({one for one, _ in having})]
    else:
        terms = [
            f'(platform_machine == "{PLATFORMS[platform]}" and python_version == "{python}")'
            for platform, python in sorted(having)
        ]
    pin, rest = line.split(" ", 1)
    return f"{pin} ; {' or '.join(terms)} {rest}"
