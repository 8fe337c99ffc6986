"""The install step of the recipe: an interpreter with the requirements, its path in the file ``interpreter``.

    python3 -I install.py --python ""                 makes a virtual environment in the work folder
    python3 -I install.py --python /opt/ml/bin/python takes this one, if it has all that is needed
    python3 -I install.py --python -                  reads either of the two from standard input
    python3 -I install.py --torch gpu                 the same with PyTorch for NVIDIA GPUs, 2 GB more

It runs again at each start of the nucleus, and then has nothing to do. Standard library only, and Python 3.7
is enough to run it: the system's interpreter may be older than the one that is configured.

Nothing of the surroundings changes what is installed: Python and pip run isolated from environment variables,
the user's packages and the user's configuration; each file has to have its hash. pip's configuration for the
whole machine (/etc/pip.conf) holds: there an operator names a mirror.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
TORCH_REQUIREMENTS = HERE / "requirements-torch.txt"
MODULES = ("awsiot", "boto3", "cbor2", "msgspec", "numpy", "safetensors", "stream_manager", "torch", "xxhash")
INTERPRETER = Path("interpreter")  # read by the run step
ENVIRONMENT = Path("venv")
MARKER = ENVIRONMENT / "requirements.sha256"
# Of PyTorch without its parts for GPUs; PyPI's own build for x86-64 has them.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
KIND = ENVIRONMENT / "torch"  # cpu or gpu
OLDEST = (3, 11)  # that the pinned requirements are published for
OLDEST_CONFIGURED = (3, 10)  # that the trainer's own code runs on, such as JetPack 6's
FROM_INPUT = "-"
# What may stand in the configuration's `python`; `fedgrass deploy devices` checks the same.
PYTHON_PATH = re.compile(r"/[A-Za-z0-9_./+@:,=~ -]{1,250}")
STARTED = time.monotonic()
CHECK_SECONDS = 60.0
STEP_SECONDS = (
    870.0  # of all together: a little less than the recipe's own time-out, so that the reason is told
)

CHECK = f"""
import importlib.util, sys
if sys.version_info < {OLDEST_CONFIGURED}:
    oldest = "{OLDEST_CONFIGURED[0]}.{OLDEST_CONFIGURED[1]}"
    sys.exit("it is Python " + sys.version.split()[0] + ", and has to be " + oldest + " or newer")
missing = [name for name in {MODULES} if importlib.util.find_spec(name) is None]
if missing:
    sys.exit("it does not have: " + ", ".join(missing))
"""


class InstallError(Exception):
    """The trainer cannot be installed; the text says why, and what to do."""


def main() -> int:
    """Install, and return the exit code of the step."""
    parser = argparse.ArgumentParser(description="Prepares the interpreter of the trainer.")
    parser.add_argument("--python", default="", help="an interpreter that has the requirements already")
    parser.add_argument("--torch", choices=["cpu", "gpu"], default="cpu", help="the kind of PyTorch (cpu)")
    given = parser.parse_args()
    # The recipe hands the configured value over as input, so that no shell looks at it.
    wanted = sys.stdin.read().strip("\n") if given.python == FROM_INPUT else given.python
    try:
        python = checked(wanted) if wanted else environment(given.torch)
    except InstallError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    unfinished = INTERPRETER.with_suffix(".unfinished")
    unfinished.write_text(f"{python}\n", encoding="utf-8")
    unfinished.replace(INTERPRETER)
    return 0


def checked(wanted: str) -> Path:
    """Return the interpreter at ``wanted`` if it has all that the trainer needs."""
    key = "the configuration's python"
    python = Path(wanted)
    if not (PYTHON_PATH.fullmatch(wanted) and python.is_file() and os.access(str(python), os.X_OK)):
        message = f"{key} is {wanted!r}; it has to be the absolute path of an interpreter, or empty"
        raise InstallError(message)
    _run([str(python), "-c", CHECK], CHECK_SECONDS, f"{key}, {python}, cannot run the trainer")
    return python


def environment(torch: str = "cpu") -> Path:
    """Return the interpreter of a virtual environment that has the requirements, made if need be."""
    _check_version()
    python = (ENVIRONMENT / "bin" / "python").absolute()
    pinned = REQUIREMENTS.read_bytes() + TORCH_REQUIREMENTS.read_bytes()
    digest = hashlib.sha256(pinned).hexdigest()
    same_kind = KIND.exists() and KIND.read_text(encoding="utf-8") == torch
    if same_kind and python.exists() and MARKER.exists() and MARKER.read_text(encoding="utf-8") == digest:
        return python
    if MARKER.exists():
        MARKER.unlink()
    # pip takes one kind of PyTorch for as good as the other, so the other one has to go first.
    clear = [] if same_kind or not KIND.exists() else ["--clear"]
    _run(
        [sys.executable, "-I", "-m", "venv", *clear, str(ENVIRONMENT)],
        CHECK_SECONDS,
        "no virtual environment can be made (on Debian and Ubuntu: apt-get install python3-venv)",
    )
    pip = [str(python), "-I", "-m", "pip", "--isolated", "install", "--no-input"]
    # The lists are whole: nothing is resolved, and nothing that is not in them is installed.
    pip += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    KIND.write_text(torch, encoding="utf-8")
    _install_torch(pip, torch)
    _run([*pip, "--require-hashes", "-r", str(REQUIREMENTS)], _left(), "the requirements cannot be installed")
    MARKER.write_text(digest, encoding="utf-8")
    return python


def _check_version() -> None:
    """Refuse an interpreter that is too old before anything is downloaded."""
    if sys.version_info[:2] < OLDEST:
        found, oldest, configured = (
            f"{version[0]}.{version[1]}" for version in (sys.version_info, OLDEST, OLDEST_CONFIGURED)
        )
        message = (
            f"python3 is Python {found} here, and the trainer's environment needs {oldest} or newer; nothing"
            " was downloaded. Name an interpreter that has the requirements as `python` in the component's"
            f" configuration; {configured} is enough for that one"
        )
        raise InstallError(message)


def _install_torch(pip: "list[str]", kind: str) -> None:
    """Install PyTorch: without its parts for GPUs from its own index, or PyPI's build by its hashes."""
    if kind == "cpu":
        lines = TORCH_REQUIREMENTS.read_text(encoding="utf-8").splitlines()
        wanted = [line.partition(" ")[0] for line in lines if line.startswith("torch==")]
        options = ["--index-url", CPU_INDEX, "--retries", "1"]
        try:
            _run([*pip, *options, *wanted], _left(), "PyTorch's own index has none")
        except InstallError as error:
            sys.stderr.write(f"{error}: taking what pip's own index has, which may be 2 GB larger\n")
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
