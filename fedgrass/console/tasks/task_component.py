"""Build the component of a task: its name, its artifact and its recipe, for both nuclei.

The install step does everything. Nucleus Lite completes all install steps of a deployment before it starts a
component; the classic nucleus orders components by their dependencies alone, and the trainer's recipe cannot
name the tasks of its users. So the trainer waits for a task whose component is not there yet.

The run step ends at once, and the component is FINISHED. Without one, Nucleus Lite (read in its source,
July 2026: gghealthd knows the unit of the run step only) would wait 300 s for a state that never comes, and
the deployment would fail.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

import package
from components.trainer import task_installer
from fedgrass.console.tasks.task_files import MOST_BYTES, task_files
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name

PREFIX = "com.fedgrass.task."
ARCHIVE = "task.zip"
PLATFORMS = {"amd64": "x86_64", "aarch64": "aarch64"}  # Greengrass's architecture -> machine
_INSTALLER = Path(task_installer.__file__)
_LOCATION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_RECIPE = """\
# The code of a task of fedgrass, written by `fedgrass {command}`.
RecipeFormatVersion: "2020-01-25"
ComponentName: {component}
ComponentVersion: "{version}"
ComponentDescription: The task {name} ({module}) of a fedgrass fleet.
ComponentPublisher: fedgrass
ComponentConfiguration:
  DefaultConfiguration:
    task: {name}
    module: "{module}"
    # Absolute path of the interpreter that the trainer is configured with; empty: it has installed one.
    python: ""
Manifests:
"""
_MANIFEST = """\
  - Platform:
      os: linux
      architecture: {architecture}
      runtime: "*"
    Lifecycle:
      # The archive runs by itself, because Nucleus Lite does not unpack it in a local deployment.
      install:
        Timeout: 900
        Script: |-
          python3 -I "{{artifacts:path}}/{archive}" --python - <<'END_OF_PYTHON'
          {{configuration:/python}}
          END_OF_PYTHON
      run:
        Script: exit 0
    Artifacts:
      - URI: "s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/{archive}"
"""


class TaskCode(Struct, frozen=True, kw_only=True):
    """What a task's component is made of."""

    name: str  # of the task
    module: str  # package.module:ClassName
    folder: Path  # of the module
    include: Sequence[str] = ()  # patterns of data files below the folder
    files: Mapping[str, Path] = {}  # all files by their name, if module and patterns do not select them
    requirements: str = ""  # frozen: every package with its version and hashes; empty: none
    wheels: Sequence[Path] = ()  # files of the requirements to bundle
    platforms: Sequence[str] = tuple(PLATFORMS)


def component_name(task: str) -> str:
    """Return the name of a task's component: ``com.fedgrass.task.cracks`` for ``cracks``.

    That of a Flower app, ``flower:mean``, is ``com.fedgrass.task.flower.mean``: names of components have no
    colon, and names of tasks no dot.

    Raises:
        SettingsError: the name is not one of a task; names of tasks are valid in component names.
    """
    return PREFIX + checked_name("task", task).replace(":", ".")


def task_name(class_name: str) -> str:
    """Return the task name of a class: ``wind_power`` for ``WindPower``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()


def checked_location(location: str) -> tuple[str, str]:
    """Return module and class name of ``package.module:ClassName``. Raises SettingsError."""
    if not _LOCATION.fullmatch(location):
        message = f"{location!r} is not a task: give its module and class, such as cracks:Cracks"
        raise SettingsError(message)
    module, _, class_name = location.partition(":")
    return module, class_name


def build_task(code: TaskCode, version: str, output: Path) -> list[str]:
    """Write ``artifacts/<component>/<version>/task.zip`` and ``recipes/<component>.yaml`` to a folder.

    The same files and requirements give the same bytes.

    Args:
        code: what the component is made of.
        version: of the component.
        output: the folder, in the layout of `gdk component build`.

    Returns:
        The names of the task's files.

    Raises:
        SettingsError: a file may not be taken, or the artifact is too large.
    """
    component = component_name(code.name)
    module, _ = checked_location(code.module)
    files = code.files or task_files(code.folder, module, code.include)
    described = {"component": component, "version": version, "task": code.name, "module": code.module}
    with tempfile.TemporaryDirectory(prefix="fedgrass-task-") as name:
        made = Path(name)
        (made / task_installer.MANIFEST).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(_INSTALLER, made / "__main__.py")
        if code.requirements:
            (made / task_installer.REQUIREMENTS).write_text(code.requirements, encoding="utf-8")
        entries = [(path.name, path) for path in made.iterdir()]
        entries += [(f"{task_installer.FILES}{file}", path) for file, path in files.items()]
        entries += [(f"{task_installer.WHEELS}{path.name}", path) for path in code.wheels]
        archive = output / "artifacts" / component / version / ARCHIVE
        package.write_zip(archive, entries)
    if (size := archive.stat().st_size) > MOST_BYTES:
        archive.unlink()
        message = f"the artifact of {component} has {size:,} bytes, and Greengrass takes {MOST_BYTES:,}"
        raise SettingsError(message)
    recipe = output / "recipes" / f"{component}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(task_recipe(code, version), encoding="utf-8")
    return list(files)


def task_recipe(code: TaskCode, version: str) -> str:
    """Return the recipe of a task's component; its artifact is in the bucket ``BUCKET_NAME``."""
    head = _RECIPE.format(
        component=component_name(code.name),
        version=version,
        name=code.name,
        module=code.module,
        command="flower add" if code.files else "task publish",
    )
    manifests = [_MANIFEST.format(architecture=one, archive=ARCHIVE) for one in code.platforms]
    return head + "".join(manifests)
