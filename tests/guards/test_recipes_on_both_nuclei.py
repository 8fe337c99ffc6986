"""The recipes by the rules of each nucleus: the selected manifest, and the values that the install step gets.

The rules of Nucleus Lite are those of its source (ggl-recipe, manifest_selection): a manifest without
`runtime` is for the classic nucleus only; attributes other than runtime, os and architecture are ignored.
The classic nucleus compares every attribute with its own, to which `platformOverride` adds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import package
from fedgrass.console.options import FULL_NAMES, TRAINERS

PROJECT = Path(__file__).parents[2]
NAMES = sorted(FULL_NAMES.values())
MACHINES = ("amd64", "aarch64")
ANY = {"*", "all"}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / "recipes" / f"{name}.yaml").read_text())
    return found


@pytest.fixture(params=NAMES)
def recipe(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each component's recipe."""
    return read(request.param)


def lite_manifest(recipe: Mapping[str, Any], architecture: str) -> dict[str, Any] | None:
    """Return the manifest that Nucleus Lite selects on Linux."""
    for manifest in recipe["Manifests"]:
        platform = manifest["Platform"]
        if platform.get("runtime") not in {"*", "aws_nucleus_lite"}:
            continue
        fits = platform.get("os", "*") in {"linux", *ANY}
        if fits and platform.get("architecture", "*") in {architecture, "*"}:
            return dict(manifest)
    return None


def classic_manifest(recipe: Mapping[str, Any], device: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the manifest that the classic nucleus selects on a device with these attributes."""
    for manifest in recipe["Manifests"]:
        attributes = manifest["Platform"].items()
        if all(value in ANY or device.get(name) == value for name, value in attributes):
            return dict(manifest)
    return None


def install_script(manifest: Mapping[str, Any] | None) -> str:
    assert manifest is not None
    script: str = manifest["Lifecycle"]["install"]["Script"]
    return script


@pytest.mark.parametrize("architecture", MACHINES)
def test_nucleus_lite_never_takes_the_manifest_for_gpus(recipe: dict[str, Any], architecture: str) -> None:
    manifest = lite_manifest(recipe, architecture)
    assert "--torch gpu" not in install_script(manifest)
    assert manifest is not None
    assert manifest["Platform"]["architecture"] == architecture


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_classic_nucleus_takes_the_manifest_for_gpus_where_its_configuration_names_one(
    recipe: dict[str, Any], architecture: str
) -> None:
    device = {"os": "linux", "architecture": architecture}
    plain = classic_manifest(recipe, device)
    assert "--torch gpu" not in install_script(plain)
    with_gpu = classic_manifest(recipe, {**device, "gpu": "nvidia"})
    assert ("--torch gpu" in install_script(with_gpu)) == (architecture == "amd64")


@pytest.mark.parametrize("architecture", ["arm", "x86", "riscv64"])
def test_a_machine_without_pytorch_is_refused_by_both(recipe: dict[str, Any], architecture: str) -> None:
    assert lite_manifest(recipe, architecture) is None
    assert classic_manifest(recipe, {"os": "linux", "architecture": architecture}) is None


def test_no_dependency_stops_the_component_when_it_dies(recipe: dict[str, Any]) -> None:
    """Nucleus Lite maps HARD to systemd's BindsTo, and SOFT to Wants."""
    kinds = {given["DependencyType"] for given in recipe["ComponentDependencies"].values()}
    assert kinds == {"SOFT"}


def test_the_trainer_without_stream_manager_differs_in_nothing_else() -> None:
    with_it, without = (read(name) for name in TRAINERS)
    del with_it["ComponentDependencies"]["aws.greengrass.StreamManager"]
    with_it["ComponentConfiguration"]["DefaultConfiguration"]["uploader"] = "s3"
    descriptions = {recipe.pop("ComponentDescription") for recipe in (with_it, without)}
    assert len(descriptions) == 2
    renamed = json.loads(json.dumps(with_it).replace(*TRAINERS))
    assert renamed == without
    assert package.COMPONENTS[TRAINERS[0]] == package.COMPONENTS[TRAINERS[1]]


HOSTILE = [
    "/opt/my env/bin/python",
    "$(touch INJECTED)",
    "`touch INJECTED`",
    '"; touch INJECTED; "',
    "'; touch INJECTED; '",
    "/usr/bin/python3; touch INJECTED",
    "/usr/bin/python3\ntouch INJECTED",
    "\\$(touch INJECTED) && touch INJECTED | touch INJECTED > INJECTED",
    "--torch",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_configured_python_reaches_the_install_step_as_it_is(
    recipe: dict[str, Any], value: str, tmp_path: Path
) -> None:
    folder = tmp_path / "unpacked"
    work = tmp_path / "work"
    work.mkdir()
    for manifest in recipe["Manifests"]:
        script = install_script(manifest)
        assert "python3 -I " in script
        filled = script.replace("{artifacts:decompressedPath}", str(folder)).replace(
            "{configuration:/python}", value
        )
        for part in ("trainer", "predictor"):
            place = folder / part / "components" / "trainer"
            place.mkdir(parents=True, exist_ok=True)
            (place / "install.py").write_text("import sys; sys.stdout.write(sys.stdin.read())")
        done = subprocess.run(
            ["/bin/sh", "-c", filled],
            cwd=work,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin"},
        )
        assert done.stdout == f"{value}\n"
        assert list(work.iterdir()) == []
