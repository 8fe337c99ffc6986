"""Write the requirements of devices: every package to install, with its version and hashes.

    .venv/bin/python .ci/pin_requirements.py        or: make requirements

Versions are those of constraints.txt. PyPI must be reachable; no package is downloaded, because the index has
the hashes. The list must be the same for x86-64 and arm64 and for each supported Python, so that one file
serves all devices and each package has wheels for both machines.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = PROJECT / "components" / "trainer"
COMMON = ("boto3", "msgspec", "numpy", "safetensors", "scikit-learn", "torch", "xxhash")
DIRECT = {
    "requirements.txt": ("awsiotsdk", "cbor2", "stream-manager", *COMMON),
    "requirements-mqtt.txt": ("paho-mqtt", *COMMON),
}
# Optional on a device, and without a wheel for newer versions of Python: name -> first version without one.
OPTIONAL = {"datasketches": "3.14"}
MACHINES = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The GPU build of PyTorch and its dependencies: in a separate file, since most devices use the CPU build.
OF_TORCH = re.compile(r"(torch|triton|(nvidia|cuda)-[a-z0-9-]+)==")
HEADER = """\
# {title}
# Complete: pip resolves nothing. For x86-64 and arm64, Python {first} to {last}; the versions are those of
# constraints.txt. Written by `make requirements`; do not edit.
"""
TITLES = {
    "requirements.txt": "What the trainer and the predictor need on a Greengrass device, besides PyTorch.",
    "requirements-mqtt.txt": "What the trainer needs on a device without Greengrass, besides PyTorch.",
    "requirements-torch.txt": "PyTorch from PyPI, with its parts for NVIDIA GPUs.",
}


def main() -> None:
    """Write the three files; exits if machines or Python versions need different packages."""
    for name, direct in DIRECT.items():
        lists = {_compiled(direct, machine, python) for machine in MACHINES for python in PYTHONS}
        if len(lists) != 1:
            sys.exit(
                f"{name}: the packages differ between machines or Python versions: write a file for each"
            )
        pins = sorted([*_pins(lists.pop()), *map(_optional_pin, OPTIONAL)])
        _write(name, [pin for pin in pins if not OF_TORCH.match(pin)])
        _write("requirements-torch.txt", [pin for pin in pins if OF_TORCH.match(pin)])


def _compiled(direct: tuple[str, ...], machine: str, python: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
        wanted.write("\n".join(direct))
        wanted.flush()
        command = [
            str(Path(sys.executable).with_name("uv")),
            "pip",
            "compile",
            "--quiet",
            "--generate-hashes",
        ]
        command += ["--no-header", "--no-annotate", "--only-binary", ":all:"]
        command += ["--constraint", str(PROJECT / "constraints.txt")]
        command += ["--python-platform", machine, "--python-version", python, wanted.name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - no shell
    return done.stdout


def _optional_pin(package: str) -> str:
    """Return the pin of an optional package, with the marker of the versions of Python that have a wheel."""
    first = OPTIONAL[package]
    pythons = [python for python in PYTHONS if _version(python) < _version(first)]
    pins = {
        pin
        for machine in MACHINES
        for python in pythons
        for pin in _pins(_compiled((package,), machine, python))
        if pin.startswith(f"{package}==")
    }
    (pin,) = pins
    return pin.replace(" \\\n", f" ; python_version < '{first}' \\\n", 1)


def _version(python: str) -> tuple[int, ...]:
    return tuple(map(int, python.split(".")))


def _pins(text: str) -> list[str]:
    """Return one entry per package: its line and the lines of its hashes."""
    return re.findall(r"^\S+==.*\n(?:    --hash=.*\n)+", text, re.MULTILINE)


def _write(name: str, pins: list[str]) -> None:
    header = HEADER.format(title=TITLES[name], first=PYTHONS[0], last=PYTHONS[-1])
    (FOLDER / name).write_text(header + "".join(pins), encoding="utf-8")


if __name__ == "__main__":
    main()
