"""The component that brings a Flower app to devices: its files as they are, and a module with its task.

    pyproject.toml               as it is; the task reads components and configuration from it on the device
    <package>/client_app.py ...  as they are
    fedgrass_flower_app.py       the task: FlowerTask with this folder

The devices install what the app's pyproject.toml requires, and flwr in the version with which the app was
tried. Packages that the trainer has are not installed again.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from fedgrass.console.flower.flower_files import app_files
from fedgrass.console.flower.flower_project import FlowerProject
from fedgrass.console.tasks.frozen_requirements import PYTHONS, check_against_trainer, parse_requirement
from fedgrass.console.tasks.task_component import PLATFORMS, TaskCode
from fedgrass.federation.errors import SettingsError

MODULE = "fedgrass_flower_app"
CLASS_LOCATION = f"{MODULE}:App"
_SOURCE = '''\
"""The task of a Flower app, written by `fedgrass flower add`."""

from pathlib import Path

from components.trainer.flower.flower_task import FlowerTask


class App(FlowerTask):
    """The app in this folder."""

    folder = Path(__file__).parent
'''
_FLWR = "flwr"
_SIMULATION = "simulation"  # the extra that brings Ray, which no device needs
_OURS = "components"  # the trainer's own package, which a package of the app would hide


def flower_code(  # noqa: PLR0913 - what a component is made of
    project: FlowerProject,
    name: str,
    folder: Path,
    *,
    requirements: str = "",
    wheels: Sequence[Path] = (),
    platforms: Sequence[str] = tuple(PLATFORMS),
) -> TaskCode:
    """Return what the component of an app is made of.

    Args:
        project: the app.
        name: of the task, ``flower:...``.
        folder: where the generated module is written.
        requirements: frozen; empty: none.
        wheels: files of the requirements to bundle.
        platforms: Greengrass's architectures.

    Raises:
        SettingsError: the app's files cannot be taken.
    """
    files = app_files(project)
    for file in files:
        if file == f"{MODULE}.py":
            message = (
                f"{project.folder / file} has the name of the module that fedgrass adds to the app: rename it"
            )
            raise SettingsError(message)
        if file.split("/")[0] in {_OURS, f"{_OURS}.py"}:
            message = f"{project.folder / file} hides a package of the trainer: rename {_OURS!r} in the app"
            raise SettingsError(message)
    client = project.client_app.partition(":")[0]
    if not _has_module(files, client):
        message = (
            f"the clientapp {project.client_app} is not in the files of the app: there is no module"
            f" {client!r} in {project.folder}, or .gitignore, fab-include or fab-exclude leave it out"
        )
        raise SettingsError(message)
    generated = folder / f"{MODULE}.py"
    generated.write_text(_SOURCE, encoding="utf-8")
    return TaskCode(
        name=name,
        module=CLASS_LOCATION,
        folder=project.folder,
        files={**files, generated.name: generated},
        requirements=requirements,
        wheels=wheels,
        platforms=platforms,
    )


def app_requirements(project: FlowerProject, flwr: str, unpinned: Collection[str] = ()) -> list[Requirement]:
    """Return the requirements of an app on a device, with flwr in one version and without its simulation.

    Args:
        project: the app.
        flwr: the version of flwr with which the app was tried.
        unpinned: names of packages for which the app's bounds on the version do not count.

    Raises:
        SettingsError: one names no package of an index, does not admit the trainer's version of its package
            or this version of flwr, or a name is none of the app's.
    """
    place = f"{project.folder / 'pyproject.toml'}, dependencies"
    wanted, extras = [], set[str]()
    free = {canonicalize_name(one) for one in unpinned}
    for line in project.dependencies:
        found = parse_requirement(line, place)
        if (package := canonicalize_name(found.name)) in free:
            found.specifier = SpecifierSet()
        if package != _FLWR:
            check_against_trainer(
                found,
                place,
                f"allow that version, take the trainer's by `fedgrass flower add --unpin {package}`",
            )
            wanted.append(found)
        elif found.specifier.contains(flwr, prereleases=True):
            extras |= found.extras - {_SIMULATION}
        else:
            message = (
                f"{place}: {line!r} does not admit flwr {flwr}, which is installed here: allow that version,"
                " or take it by `fedgrass flower add --unpin flwr`"
            )
            raise SettingsError(message)
    names = {canonicalize_name(parse_requirement(line, place).name) for line in project.dependencies}
    if strangers := free - names:
        message = f"--unpin names {min(strangers)!r}, which is not in the dependencies of {place}"
        raise SettingsError(message)
    with_extras = f"[{','.join(sorted(extras))}]" if extras else ""
    return [Requirement(f"{_FLWR}{with_extras}=={flwr}"), *wanted]


def app_pythons(project: FlowerProject, chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the versions of Python for which an app's requirements are pinned.

    Args:
        project: the app.
        chosen: versions that the operator chose; empty: all of the trainer's that the app admits.

    Raises:
        SettingsError: the app does not admit one, or none of the trainer's.
    """
    place = f"{project.folder / 'pyproject.toml'}: requires-python"
    try:
        admitted = SpecifierSet(project.requires_python)
    except InvalidSpecifier as error:
        message = f"{place} is {project.requires_python!r}; it takes bounds such as >=3.10,<3.14"
        raise SettingsError(message) from error
    for python in chosen:
        if not _admits(admitted, python):
            message = f"{place} is {project.requires_python!r}, which does not admit --python {python}"
            raise SettingsError(message)
    found = tuple(dict.fromkeys(chosen)) or tuple(one for one in PYTHONS if _admits(admitted, one))
    if not found:
        message = (
            f"{place} is {project.requires_python!r}, which admits none of the trainer's versions of Python:"
            f" {', '.join(PYTHONS)}"
        )
        raise SettingsError(message)
    return found


def _admits(admitted: SpecifierSet, python: str) -> bool:
    """Return whether some patch release of a version of Python is admitted."""
    return any(admitted.contains(f"{python}.{patch}") for patch in (0, 30))


def _has_module(files: Mapping[str, Path], module: str) -> bool:
    path = module.replace(".", "/")
    return f"{path}.py" in files or f"{path}/__init__.py" in files
