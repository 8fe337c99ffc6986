#!/usr/bin/env python3
"""Build what is deployed: component artifacts for Greengrass, and the zip of the Lambda functions.

    python3 package.py component                 called by `gdk component build`: the primary component, and a
                                                 GDK project below build/gdk/ for each of the others
    python3 package.py component NAME            called by `gdk component build` in such a project
    python3 package.py lambda                    the functions without dependencies, for the embedded cloud
    python3 package.py lambda --dependencies     with dependencies such as numpy, for AWS
    python3 package.py lambda --dependencies --folder F     as a folder, for `sam build`

Builds are reproducible: entries are sorted, and their times and permissions are fixed. Only the standard
library is needed (and pip for --dependencies), because GDK runs this file with any Python.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
FEDERATION = ("fedgrass/__init__.py", "fedgrass/federation")
# The tasks, and the installer of the interpreter: the predictor evaluates new models like the trainer.
TASKS = (
    "__init__.py",
    "install.py",
    "requirements.txt",
    "requirements-torch.txt",
    "tasks",
    "training",
)
# The runtime of the processes of all components.
PROCESS = (
    "components/__init__.py",
    "components/runtime",
)
TRAINER = ("trainer", (*PROCESS, "components/trainer", *FEDERATION))
# The zip of a component has the federation, the runtime and its own folder; that of the predictor also the
# tasks.
COMPONENTS = {
    "com.fedgrass.Trainer": TRAINER,
    # The same code; its recipe does not depend on Stream Manager.
    "com.fedgrass.TrainerLite": TRAINER,
    "com.fedgrass.Predictor": (
        "predictor",
        (
            *PROCESS,
            "components/predictor",
            *(f"components/trainer/{part}" for part in TASKS),
            *FEDERATION,
        ),
    ),
}
FUNCTIONS = ("cloud_functions", *FEDERATION)
# What the functions import beyond boto3, which Lambda's own runtime has.
FUNCTION_DEPENDENCIES = (
    "aws-lambda-powertools",
    "datasketches",
    "msgspec",
    "numpy",
    "safetensors",
    "xxhash",
)
LAMBDA_PYTHON = "3.12"
LAMBDA_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
LAMBDA_LIBRARIES = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")  # what Lambda's Python 3.12 can load
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip
_LEFT_OUT = {"__pycache__", "tests", "bin", "include", "Makefile"}


def build_component(name: str, version: str, author: str, output: Path, recipe_file: str = "") -> None:
    """Build one component into ``artifacts/<name>/<version>/`` and ``recipes/`` of ``output``."""
    archive, parts = COMPONENTS[name]
    write_zip(output / "artifacts" / name / version / f"{archive}.zip", _sources(parts))
    recipe = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    placeholders = {"{COMPONENT_NAME}": name, "{COMPONENT_VERSION}": version, "{COMPONENT_AUTHOR}": author}
    for placeholder, value in placeholders.items():
        recipe = recipe.replace(placeholder, value)
    target = output / "recipes" / (recipe_file or f"{name}.yaml")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(recipe)


def build_functions(
    output: Path, architecture: str | None = None, *, extra: Iterable[tuple[str, Path]] = ()
) -> None:
    """Build the zip of the functions.

    Args:
        output: file to write.
        architecture: of Lambda, to include dependencies for it; None: without dependencies.
        extra: further (name in the zip, file) entries, such as custom strategies.
    """
    with _function_entries(architecture) as entries:
        write_zip(output, [*entries, *extra])


def build_function_folder(output: Path, architecture: str | None = None) -> None:
    """Build the same content as a folder, which `sam build` zips itself."""
    with _function_entries(architecture) as entries:
        for name, path in entries:
            target = output / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


@contextmanager
def _function_entries(architecture: str | None) -> Iterator[list[tuple[str, Path]]]:
    # A separate folder for each build: `sam build --parallel` builds the functions concurrently.
    with tempfile.TemporaryDirectory(prefix="fedgrass-dependencies-") as name:
        folder = Path(name)
        if architecture:
            _install_dependencies(architecture, folder)
        installed = [(path.relative_to(folder).as_posix(), path) for path in _files(folder)]
        yield [*_sources(FUNCTIONS), *installed]


def write_zip(target: Path, entries: Iterable[tuple[str, Path]]) -> None:
    """Write (name, file) entries to a zip whose bytes depend only on names and contents."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, path in sorted(entries):
            information = zipfile.ZipInfo(name, _EPOCH)
            information.external_attr = 0o644 << 16
            information.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(information, path.read_bytes())
    partial.replace(target)


def _sources(parts: Iterable[str]) -> Iterable[tuple[str, Path]]:
    for part in parts:
        root = _root_of(part)
        path = root / part
        for file in [path] if path.is_file() else _files(path):
            yield file.relative_to(root).as_posix(), file


def _root_of(part: str) -> Path:
    """Return the folder of a part; in a wheel, this file is in fedgrass/_sources."""
    return ROOT.parents[1] if ROOT.name == "_sources" and part.startswith("fedgrass") else ROOT


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not _LEFT_OUT & set(path.relative_to(folder).parts)]


def _install_dependencies(architecture: str, folder: Path) -> None:
    machine = LAMBDA_MACHINES[architecture]
    platforms = [f"--platform={libraries}_{machine}" for libraries in LAMBDA_LIBRARIES]
    options = [*platforms, "--python-version", LAMBDA_PYTHON]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    command = [
        *pip,
        "install",
        "--quiet",
        "--root-user-action=ignore",
        "--target",
        str(folder),
        "--no-compile",
    ]
    pins = ["--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt"), *FUNCTION_DEPENDENCIES]
    subprocess.run([*command, *options, *pins], check=True, timeout=900)  # noqa: S603 - no shell


def _component_command(arguments: argparse.Namespace) -> None:
    configuration = json.loads((ROOT / "gdk-config.json").read_text(encoding="utf-8"))
    (primary, settings), *others = configuration["component"].items()
    if others:
        sys.exit("gdk-config.json has more than one component; GDK builds only one")
    if not arguments.name:
        shutil.rmtree(ROOT / "build" / "gdk", ignore_errors=True)
    for name in [arguments.name] if arguments.name else COMPONENTS:
        project = ROOT if name == primary else ROOT / "build" / "gdk" / name
        output = project / "greengrass-build"
        shutil.rmtree(output, ignore_errors=True)
        # GDK looks for the recipe by the name of the given file, which is a symbolic link at the root.
        recipe_file = (project / "recipe.yaml").resolve().name
        build_component(name, settings["version"], settings["author"], output, recipe_file)
        if name != primary:
            _write_project(project, name, configuration, settings)
        print(f"built {name} {settings['version']} in {output}")  # noqa: T201 - a build script


def _write_project(project: Path, name: str, configuration: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write a GDK project of one component, because GDK builds one component per configuration."""
    command = ["python3", os.path.relpath(ROOT / "package.py", project), "component", name]
    build = {"build_system": "custom", "custom_build_command": command}
    own = {**configuration, "component": {name: {**settings, "build": build}}}
    (project / "gdk-config.json").write_text(json.dumps(own, indent=2) + "\n")
    shutil.copyfile(ROOT / "recipes" / f"{name}.yaml", project / "recipe.yaml")


def _lambda_command(arguments: argparse.Namespace) -> None:
    architecture = arguments.architecture if arguments.dependencies else None
    if arguments.folder:
        build_function_folder(arguments.folder, architecture)
        return
    output = ROOT / "build" / "lambda" / "cloud_functions.zip"
    build_functions(output, architecture)
    print(f"built {output} ({output.stat().st_size / 1e6:.1f} MB)")  # noqa: T201 - a build script


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    component = commands.add_parser("component", help="build the components in the layout of GDK")
    component.add_argument("name", nargs="?", choices=sorted(COMPONENTS), help="only this component (all)")
    component.set_defaults(run=_component_command)
    functions = commands.add_parser("lambda", help="build the zip of the cloud functions")
    functions.add_argument("--dependencies", action="store_true", help="include dependencies, for AWS")
    functions.add_argument("--architecture", choices=sorted(LAMBDA_MACHINES), default="x86_64")
    functions.add_argument("--folder", type=Path, help="write a folder instead of the zip")
    functions.set_defaults(run=_lambda_command)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
