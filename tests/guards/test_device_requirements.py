"""The packages installed on a device, pinned by version and file hashes for both architectures."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "components" / "trainer"
ENTRY = re.compile(
    r"([A-Za-z0-9._-]+)==(\S+)(?: ; python_version < '3\.14')? \\\n"
    r"((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
COMMON = {"boto3", "datasketches", "msgspec", "numpy", "safetensors", "scikit-learn", "xxhash"}
DIRECT = {
    "requirements.txt": COMMON | {"awsiotsdk", "cbor2", "stream-manager"},
    "requirements-mqtt.txt": COMMON | {"paho-mqtt"},
}


def pins(name: str) -> dict[str, str]:
    """Return the version of each package in a file; fails on packages without hashes and on other lines."""
    text = (FOLDER / name).read_text()
    found = ENTRY.findall(text)
    left = ENTRY.sub("", text)
    assert [line for line in left.splitlines() if not line.startswith("#")] == []
    return {canonicalize_name(package): version for package, version, _ in found}


def needed(package: str, machine: str, python: str) -> set[str]:
    """Return a package's requirements on Linux, from the metadata of the installed version."""
    environment: dict[str, str] = {
        **{name: str(value) for name, value in default_environment().items()},
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.0",
        "extra": "",
    }
    requirements = map(Requirement, importlib.metadata.requires(package) or [])
    return {
        canonicalize_name(each.name)
        for each in requirements
        if each.marker is None or each.marker.evaluate(environment)
    }


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", DIRECT)
def test_the_pins_are_complete(name: str, python: str, machine: str) -> None:
    found = pins(name)
    complete = found | pins("requirements-torch.txt")
    to_visit = {"torch", *DIRECT[name]}
    visited: set[str] = set()
    while to_visit:
        package = to_visit.pop()
        visited.add(package)
        assert package in complete, f"{package} is not pinned"
        to_visit |= needed(package, machine, python) - visited
    # The packages for GPUs are not installed here, so their requirements are unknown.
    unvisited = set(complete) - visited
    assert all(re.match(r"(triton|nvidia-|cuda-)", package) for package in unvisited - {"setuptools"})


def test_each_file_of_pytorch_from_pypi_is_pinned_with_what_it_brings() -> None:
    found = pins("requirements-torch.txt")
    assert {"torch", "triton", "nvidia-cublas", "nvidia-cudnn-cu13"} <= set(found)
    assert not set(found) & set(pins("requirements.txt"))


@pytest.mark.parametrize("name", [*DIRECT, "requirements-torch.txt"])
def test_the_versions_are_those_that_are_tested(name: str) -> None:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if re.match(r"[\w.-]+==", line))
    versions = {str(canonicalize_name(package)): version for package, version in tested.items()}
    found = pins(name)
    here = set(found) & set(versions)
    assert {package: found[package] for package in here} == {package: versions[package] for package in here}
    assert here >= COMMON or name == "requirements-torch.txt"
    assert "torch" in here or name != "requirements-torch.txt"


def test_both_kinds_of_devices_get_the_same_versions() -> None:
    component, plain = pins("requirements.txt"), pins("requirements-mqtt.txt")
    shared = set(component) & set(plain)
    assert {package: component[package] for package in shared} == {
        package: plain[package] for package in shared
    }
    assert set(plain) - shared == {"paho-mqtt"}
    assert set(component) - shared == {"awsiotsdk", "awscrt", "cbor2", "stream-manager"}
