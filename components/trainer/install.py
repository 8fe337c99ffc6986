"""The install step of the recipe: provide an interpreter, and write its path to the file ``interpreter``.

    python3 -I install.py --python ""                 creates a virtual environment in the work folder
    python3 -I install.py --python /opt/ml/bin/python uses this one, if it has the required packages
    python3 -I install.py --python -                  reads either of the two from standard input
    python3 -I install.py --torch gpu                 installs PyTorch for NVIDIA GPUs, 2 GB more

It runs again at each start of the nucleus, and then finds everything done. It needs only the standard library
of Python 3.7 or later and imports nothing of this project, because the system's interpreter may be older than
the configured one.

The environment does not change what is installed: Python and pip ignore environment variables, the user's
packages and the user's configuration, and each file is checked against its hash. pip's configuration for the
whole machine (/etc/pip.conf) applies: an operator names a mirror there.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
REQUIREMENTS = _HERE / "requirements.txt"
TORCH_REQUIREMENTS = _HERE / "requirements-torch.txt"
MODULES = ("awsiot", "boto3", "cbor2", "msgspec", "numpy", "safetensors", "stream_manager", "xxhash")
_TORCH = "torch"  # only tasks with PyTorch need it
_INTERPRETER = Path("interpreter")  # read by the run step
ENVIRONMENT = Path("venv")
_MARKER = ENVIRONMENT / "requirements.sha256"
# The index of PyTorch without GPU support; PyPI's build for x86-64 includes it.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_KIND = ENVIRONMENT / "torch"  # cpu or gpu
_OLDEST = (3, 11)  # for which the pinned requirements are published
OLDEST_CONFIGURED = (3, 10)  # on which the trainer's code runs, such as JetPack 6's
_FROM_INPUT = "-"
# Valid values of the configuration's `python`; `fedgrass deploy devices` checks the same.
PYTHON_PATH = re.compile(r"/[A-Za-z0-9_./+@:,=~ -]{1,250}")
STARTED = time.monotonic()
_CHECK_SECONDS = 60.0
STEP_SECONDS = (
    870.0  # of all together: a little less than the recipe's own time-out, so that the log has the reason
)

CHECK = f"""
import importlib.util, sys
if sys.version_info < {OLDEST_CONFIGURED}:
    oldest = "{OLDEST_CONFIGURED[0]}.{OLDEST_CONFIGURED[1]}"
    sys.exit("Python " + oldest + " or newer is required, this is " + sys.version.split()[0])
missing = [name for name in {MODULES} if importlib.util.find_spec(name) is None]
if missing:
    sys.exit("it does not have: " + ", ".join(missing))
if importlib.util.find_spec({_TORCH!r}) is None:
    sys.stderr.write(sys.executable + " has no PyTorch: only tasks that do not use it can be trained\\n")
"""


class InstallError(Exception):
    """The trainer cannot be installed; the text names the reason and a remedy."""


def main() -> int:
    """Run the step; return its exit code."""
    parser = argparse.ArgumentParser(description="Prepares the interpreter of the trainer.")
    parser.add_argument("--python", default="", help="an interpreter that has the requirements already")
    parser.add_argument("--torch", choices=["cpu", "gpu"], default="cpu", help="the kind of PyTorch (cpu)")
    given = parser.parse_args()
    # The recipe passes the configured value on standard input, so that no shell interprets it.
    configured = sys.stdin.read().strip("\n") if given.python == _FROM_INPUT else given.python
    try:
        python = checked(configured) if configured else environment(given.torch)
    except InstallError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # Not flushed as in components/runtime/atomic_file.py: the next start of the nucleus repeats the step.
    unfinished = _INTERPRETER.with_suffix(".unfinished")
    unfinished.write_text(f"{python}\n", encoding="utf-8")
    unfinished.replace(_INTERPRETER)
    return 0


def checked(configured: str) -> Path:
    """Return the configured interpreter, if it has the required packages.

    Raises:
        InstallError: it cannot run the trainer.
    """
    key = "the configuration's python"
    python = Path(configured)
    if not (PYTHON_PATH.fullmatch(configured) and python.is_file() and os.access(str(python), os.X_OK)):
        message = f"{key} is {configured!r}; it must be the absolute path of an interpreter, or empty"
        raise InstallError(message)
    _run([str(python), "-c", CHECK], _CHECK_SECONDS, f"{key}, {python}, cannot run the trainer")
    return python


def environment(torch: str = "cpu") -> Path:
    """Return the interpreter of a virtual environment with the requirements, created if necessary.

    Raises:
        InstallError: it cannot be created.
    """
    _check_version()
    python = (ENVIRONMENT / "bin" / "python").absolute()
    pinned = REQUIREMENTS.read_bytes() + TORCH_REQUIREMENTS.read_bytes()
    digest = hashlib.sha256(pinned).hexdigest()
    same_kind = _KIND.exists() and _KIND.read_text(encoding="utf-8") == torch
    if same_kind and python.exists() and _MARKER.exists() and _MARKER.read_text(encoding="utf-8") == digest:
        return python
    if _MARKER.exists():
        _MARKER.unlink()
    # pip does not distinguish the two kinds of PyTorch, so clear an environment with the other one.
    clear = [] if same_kind or not _KIND.exists() else ["--clear"]
    _run(
        [sys.executable, "-I", "-m", "venv", *clear, str(ENVIRONMENT)],
        _CHECK_SECONDS,
        "no virtual environment can be created (on Debian and Ubuntu: apt-get install python3-venv)",
    )
    pip = [str(python), "-I", "-m", "pip", "--isolated", "install", "--no-input"]
    # The lists are complete: nothing is resolved, and nothing else is installed.
    pip += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    _KIND.write_text(torch, encoding="utf-8")
    _install_torch(pip, torch)
    _run([*pip, "--require-hashes", "-r", str(REQUIREMENTS)], _left(), "the requirements cannot be installed")
    _MARKER.write_text(digest, encoding="utf-8")
    return python


def _check_version() -> None:
    """Raise InstallError for an interpreter that is too old, before anything is downloaded."""
    if sys.version_info[:2] < _OLDEST:
        found, oldest, configured = (
            f"{version[0]}.{version[1]}" for version in (sys.version_info, _OLDEST, OLDEST_CONFIGURED)
        )
        message = (
            f"python3 is Python {found} here, and the trainer's environment needs {oldest} or newer; nothing"
            " was downloaded. Name an interpreter that has the requirements as `python` in the component's"
            f" configuration; {configured} is enough for that one"
        )
        raise InstallError(message)


def _install_torch(pip: "list[str]", kind: str) -> None:
    """Install PyTorch: without GPU support from its own index, or PyPI's build checked by its hashes."""
    if kind == "cpu":
        lines = TORCH_REQUIREMENTS.read_text(encoding="utf-8").splitlines()
        pinned = [line.partition(" ")[0] for line in lines if line.startswith("torch==")]
        options = ["--index-url", CPU_INDEX, "--retries", "1"]
        try:
            _run([*pip, *options, *pinned], _left(), "PyTorch's own index has none")
        except InstallError as error:
            sys.stderr.write(f"{error}: installing the build of pip's own index, which may be 2 GB larger\n")
        else:
            return
    _run([*pip, "--require-hashes", "-r", str(TORCH_REQUIREMENTS)], _left(), "PyTorch cannot be installed")


def _left() -> float:
    return STEP_SECONDS - (time.monotonic() - STARTED)


def _run(command: "list[str]", seconds: float, failure: str) -> None:
    try:
        subprocess.run(command, check=True, timeout=seconds, stdin=subprocess.DEVNULL)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        message = f"{failure}: it took longer than {seconds:.0f} s"
        raise InstallError(message) from error
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"{failure}: {error}"
        raise InstallError(message) from error


if __name__ == "__main__":
    sys.exit(main())
