"""The install step of the recipe: an interpreter with the requirements, its path in the file ``interpreter``.

    python3 install.py --python ""                 makes a virtual environment in the work folder
    python3 install.py --python /opt/ml/bin/python takes this one, if it has all that is needed
    python3 install.py --torch gpu                 the same with PyTorch for NVIDIA GPUs, which is 2 GB more

It runs again at each start of the nucleus, and then has nothing to do. Standard library only.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().with_name("requirements.txt")
MODULES = ("awsiot", "boto3", "cbor2", "msgspec", "numpy", "safetensors", "stream_manager", "torch", "xxhash")
INTERPRETER = Path("interpreter")  # read by the run step
ENVIRONMENT = Path("venv")
MARKER = ENVIRONMENT / "requirements.sha256"
# Of PyTorch without its parts for GPUs; PyPI's own build for x86-64 has them.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
KIND = ENVIRONMENT / "torch"  # cpu or gpu
OLDEST = (3, 11)
STARTED = time.monotonic()
CHECK_SECONDS = 60.0
STEP_SECONDS = (
    870.0  # of all together: a little less than the recipe's own time-out, so that the reason is told
)

CHECK = f"""
import importlib.util, sys
if sys.version_info < {OLDEST}:
    sys.exit("it is Python " + sys.version.split()[0] + ", and has to be {OLDEST[0]}.{OLDEST[1]} or newer")
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
    try:
        python = checked(Path(given.python)) if given.python else environment(given.torch)
    except InstallError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    unfinished = INTERPRETER.with_suffix(".unfinished")
    unfinished.write_text(f"{python}\n", encoding="utf-8")
    unfinished.replace(INTERPRETER)
    return 0


def checked(python: Path) -> Path:
    """Return ``python`` if it has all that the trainer needs."""
    wanted = "the configuration's python"
    if not (python.is_absolute() and python.is_file() and os.access(python, os.X_OK)):
        message = f"{wanted} is {str(python)!r}; it has to be the absolute path of an interpreter, or empty"
        raise InstallError(message)
    _run([str(python), "-c", CHECK], CHECK_SECONDS, f"{wanted}, {python}, cannot run the trainer")
    return python


def environment(torch: str = "cpu") -> Path:
    """Return the interpreter of a virtual environment that has the requirements, made if need be."""
    python = (ENVIRONMENT / "bin" / "python").absolute()
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    same_kind = KIND.exists() and KIND.read_text(encoding="utf-8") == torch
    if same_kind and python.exists() and MARKER.exists() and MARKER.read_text(encoding="utf-8") == digest:
        return python
    MARKER.unlink(missing_ok=True)
    # pip takes one kind of PyTorch for as good as the other, so the other one has to go first.
    clear = [] if same_kind or not KIND.exists() else ["--clear"]
    _run(
        [sys.executable, "-m", "venv", *clear, str(ENVIRONMENT)],
        CHECK_SECONDS,
        "no virtual environment can be made (on Debian and Ubuntu: apt-get install python3-venv)",
    )
    pip = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    KIND.write_text(torch, encoding="utf-8")
    if torch == "cpu":
        _install_torch_for_cpu(pip)
    _run([*pip, "-r", str(REQUIREMENTS)], _left(), "the requirements cannot be installed")
    MARKER.write_text(digest, encoding="utf-8")
    return python


def _install_torch_for_cpu(pip: list[str]) -> None:
    """Install PyTorch alone from its own index; where that is not reached, it comes with the others."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    for requirement in (line for line in lines if line.startswith("torch==")):
        options = ["--index-url", CPU_INDEX, "--no-deps", "--retries", "1"]
        try:
            _run([*pip, *options, requirement], _left(), "PyTorch's own index has none")
        except InstallError as error:
            sys.stderr.write(f"{error}: taking what pip's own index has, which may be 2 GB larger\n")


def _left() -> float:
    return STEP_SECONDS - (time.monotonic() - STARTED)


def _run(command: list[str], seconds: float, failure: str) -> None:
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
