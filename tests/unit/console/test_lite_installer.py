"""The installer of Nucleus Lite, with fakes of the programs of the device."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from fedgrass.console.provisioning.core_installation import (
    _LITE_CONFIGURATION,
    _LITE_USER,
    CoreDevice,
    write_device_files,
)

DEVICE = CoreDevice(
    thing="press-1",
    region="eu-west-1",
    data_endpoint="data",
    credentials_endpoint="credentials",
    role_alias="alias",
    nucleus="lite",
)
# As installed by the Debian package of Nucleus Lite 2.6.0.
PACKAGE = """\
services:
  aws.greengrass.NucleusLite:
    configuration:
      runWithDefault:
        posixUser: "ggcore:ggcore"
      greengrassDataPlanePort: "8443"
"""
STAND_INS = {
    "systemctl": "exit 0",
    "useradd": "exit 0",
    "getent": "exit 0",
    "curl": 'while [ "$1" != --output ]; do shift; done; echo CA > "$2"',
    # Without owners, which only root can set.
    "install": """set -- $(printf '%s\\n' "$@" | awk '$0 == "-o" || $0 == "-g" {getline; next} {print}')
exec /usr/bin/install "$@\"""",
}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device with the package of Nucleus Lite, after the installer has run."""
    write_device_files(tmp_path / "press-1", DEVICE)
    for name in ("private.key", "certificate.pem"):
        (tmp_path / "press-1" / name).write_text(name)
    configurations = tmp_path / "etc" / "greengrass" / "config.d"
    configurations.mkdir(parents=True)
    (configurations / "greengrass-lite.yaml").write_text(PACKAGE)
    return tmp_path


def install(device: Path) -> None:
    programs = device / "programs"
    programs.mkdir(exist_ok=True)
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    script = (device / "press-1" / "install.sh").read_text()
    script = script.replace("/etc/greengrass", f"{device}/etc/greengrass")
    script = script.replace("/var/lib/greengrass", f"{device}/var/lib/greengrass")
    (device / "press-1" / "install.sh").write_text(script)
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", device / "press-1" / "install.sh"],
        env={"PATH": path},
        check=True,
        timeout=60,
        capture_output=True,
    )


def configurations(device: Path) -> dict[str, dict[str, object]]:
    folder = device / "etc" / "greengrass" / "config.d"
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted(folder.iterdir())}


def user_of(document: dict[str, object]) -> object:
    values: object = document
    for key in ("services", "aws.greengrass.NucleusLite", "configuration", "runWithDefault", "posixUser"):
        assert isinstance(values, dict)
        values = values[key]
    return values


def test_no_file_of_the_configuration_runs_components_as_the_owner_of_the_key(device: Path) -> None:
    """Nucleus Lite reads config.d in unspecified order, so every file must name the same user."""
    install(device)
    found = configurations(device)
    assert {name: user_of(document) for name, document in found.items()} == {
        "greengrass-lite.yaml": _LITE_USER,
        "zz-fedgrass.yaml": _LITE_USER,
    }
    assert "ggcore" not in _LITE_USER


def test_the_provisioned_file_is_the_last_of_its_folder(device: Path) -> None:
    install(device)
    found = configurations(device)
    assert list(found)[-1] == Path(_LITE_CONFIGURATION).name
    assert found["zz-fedgrass.yaml"]["system"]["thingName"] == "press-1"  # type: ignore[index]
    assert not (device / "etc" / "greengrass" / "config.yaml").exists()


def test_the_installer_may_run_again_over_an_older_one_s_file(device: Path) -> None:
    (device / "etc" / "greengrass" / "config.yaml").write_text(PACKAGE)
    install(device)
    first = configurations(device)
    install(device)
    assert configurations(device) == first
    assert user_of(yaml.safe_load((device / "etc" / "greengrass" / "config.yaml").read_text())) == _LITE_USER
