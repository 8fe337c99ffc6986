"""The machine and the versions that a figure belongs to."""

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil

_CPU_INFO = Path("/proc/cpuinfo")
_GIGABYTE = 1024**3


def machine(cpu_info: str | None = None) -> dict[str, str | float]:
    """Return the processor, cores, memory in GiB, operating system and Python of this machine.

    Args:
        cpu_info: the contents of /proc/cpuinfo; read if None.
    """
    text = _read(_CPU_INFO) if cpu_info is None else cpu_info
    return {
        "processor": _model(text) or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / _GIGABYTE, 1),
        "system": f"{_system()}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _model(cpu_info: str) -> str:
    """Return the model of the first processor; ARM's /proc/cpuinfo has none."""
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def versions(*packages: str) -> dict[str, str | None]:
    """Return the installed version of each package; None where it is not installed."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
