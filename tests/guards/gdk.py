"""What the Greengrass Development Kit does with a project that has a custom build.

The kit (1.6.2) is neither on PyPI nor needed here. Its rules, taken from its source (``project_utils``,
``BuildCommand``, ``PublishCommand``, ``config_schema.json``): one component in ``gdk-config.json``; exactly
one ``recipe.yaml`` or ``recipe.json`` next to it, links followed; ``greengrass-build`` is created again; the
command runs in the project's folder; on publishing, the recipe is looked up in ``greengrass-build/recipes``
by the name of the recipe's file, and each artifact in ``greengrass-build/artifacts/<name>/<version>``, where
the version is that of the configuration.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Project:
    """A folder that the kit accepts as a project."""

    folder: Path
    name: str
    settings: dict[str, Any]
    recipe_file: str

    @property
    def build_folder(self) -> Path:
        return self.folder / "greengrass-build"

    @property
    def artifacts(self) -> Path:
        return self.build_folder / "artifacts" / self.name / str(self.settings["version"])


def read_project(folder: Path) -> Project:
    """Read a project as the kit does; fails if the kit rejects it."""
    configuration = json.loads((folder / "gdk-config.json").read_text())
    assert set(configuration) == {"component", "gdk_version"}
    ((name, settings),) = configuration["component"].items()
    assert set(settings) == {"author", "version", "build", "publish"}
    assert set(settings["publish"]) >= {"bucket", "region"}
    assert settings["build"]["build_system"] == "custom"
    (recipe,) = [*folder.glob("recipe.json"), *folder.glob("recipe.yaml")]
    return Project(folder, name, settings, recipe.resolve().name)


def build(project: Project) -> None:
    """``gdk component build``."""
    shutil.rmtree(project.build_folder, ignore_errors=True)
    (project.build_folder / "recipes").mkdir(parents=True)
    project.artifacts.mkdir(parents=True)
    command = project.settings["build"]["custom_build_command"]
    assert isinstance(command, list)
    subprocess.run(command, cwd=project.folder, check=True, timeout=60, capture_output=True)


def publish(project: Project, bucket: str, version: str) -> dict[str, bytes]:
    """``gdk component publish``: return the uploaded objects by key, and the recipe as ``recipe``."""
    if not project.artifacts.is_dir():
        build(project)
    recipe = yaml.safe_load((project.build_folder / "recipes" / project.recipe_file).read_text())
    assert recipe["ComponentName"] == project.name
    for manifest in recipe["Manifests"]:
        for artifact in manifest["Artifacts"]:
            file = Path(artifact["URI"]).name
            assert len(list(project.artifacts.glob(file))) == 1
            artifact["URI"] = f"s3://{bucket}/{project.name}/{version}/{file}"
    recipe["ComponentVersion"] = version
    uploaded = {
        f"{project.name}/{version}/{file.name}": file.read_bytes() for file in project.artifacts.iterdir()
    }
    return {**uploaded, "recipe": yaml.dump(recipe).encode()}
