"""``fedgrass task publish``: check a task, make the component of its code, and publish it.

The task is checked in a folder that has only the files of its component, so a file that was not included is
missed here and not on the devices. Data that only the devices have are not required: if the class is found
but the task cannot be created, that is a note.
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from components.runtime.component_errors import ComponentError
from components.trainer.tasks.registry import find_class
from fedgrass.console import stack
from fedgrass.console.deploy.component_publishing import Publisher, check_version
from fedgrass.console.greengrass_cloud import Account, GreengrassCloud
from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value, parse_key_values
from fedgrass.console.tasks import task_component
from fedgrass.console.tasks.frozen_requirements import (
    PYTHONS,
    Target,
    download,
    frozen,
    read_requirements,
    resolve,
)
from fedgrass.console.tasks.publishing_options import PublishingOptions
from fedgrass.console.tasks.task_component import PLATFORMS, TaskCode, build_task, component_name
from fedgrass.console.tasks.task_files import task_files
from fedgrass.console.terminal import fail, say
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.local.task_check import CheckOptions, check_task
from fedgrass.local.task_loading import METHODS, explain, explain_loading, load
from fedgrass.local.task_process import run_in_child

_PYTHON = re.compile(r"3\.(1[0-9]|2[0-9])")


@stack.refusals()
def publish_command(  # noqa: PLR0913 - the options of the command
    location: str,
    *,
    stack_name: str,
    version: str,
    task_name: str,
    path: Path,
    options: Sequence[str],
    include: Sequence[str],
    requirements: Path | None,
    publishing: PublishingOptions,
) -> None:
    """Publish a task's component, delete one, or write one to a folder; print a line per step.

    Args:
        location: of the task's class, as module:ClassName.
        stack_name: name of the stack.
        version: to publish.
        task_name: name of the task on the devices; empty: from the class.
        path: folder of the module.
        options: of the task, as KEY=VALUE, for its check.
        include: patterns of data files that belong to it.
        requirements: file of its requirements; None: requirements.txt, if it exists.
        publishing: what becomes of the component.
    """
    module, class_name = task_component.checked_location(location)
    task = task_name or task_component.task_name(class_name)
    with publication(publishing, stack_name, component_name(task), version) as carry_out:
        if carry_out is None:
            return
        task_files(path, module, include)
        with tempfile.TemporaryDirectory(prefix="fedgrass-publish-") as folder:
            code = _code(TaskSource(location, path, include, requirements), publishing, task, Path(folder))
            _check(code, Path(folder), parse_key_values("--option", options), full=publishing.check == "full")
            carry_out(code)


class TaskSource(NamedTuple):
    """Where the code of a task is."""

    location: str  # module:ClassName
    path: Path  # folder of the module
    include: Sequence[str]  # patterns of data files
    requirements: Path | None


@contextmanager
def publication(
    publishing: PublishingOptions, stack_name: str, component: str, version: str
) -> Iterator[Callable[[TaskCode], None] | None]:
    """Do what the options --remove, --out, --dry-run and --account ask for with a component.

    Args:
        publishing: the options.
        stack_name: name of the stack.
        component: its name.
        version: its version.

    Yields:
        A function that builds the component and publishes it or writes it to a folder; None if the component
        was removed instead.

    Raises:
        SettingsError: the version is invalid or exists already.
    """
    check_version(version)
    if publishing.remove:
        if publishing.out:
            fail("--remove and --out exclude each other: delete the files in the folder yourself")
        for line in _publisher(stack_name, publishing.account).remove(
            component, version, dry_run=publishing.dry_run
        ):
            say(line)
        yield None
        return
    publisher = None if publishing.out else _publisher(stack_name, publishing.account)
    if publisher:
        publisher.check_new(component, version)  # before the check, which takes seconds

    def carry_out(code: TaskCode) -> None:
        for line in _carry_out(publishing, code, version, publisher):
            say(line)

    yield carry_out


def _publisher(stack_name: str, account: str) -> Publisher:
    cloud = GreengrassCloud(stack.client, Account(stack.client, account))
    return Publisher(stack.client, cloud, stack.outputs(stack_name)["BucketName"])


def _carry_out(
    publishing: PublishingOptions, code: TaskCode, version: str, publisher: Publisher | None
) -> Iterator[str]:
    component, out = component_name(code.name), publishing.out or Path()

    def make(folder: Path) -> list[str]:
        return build_task(code, version, folder)

    if publisher:
        deploy = f"fedgrass deploy devices --group GROUP --task {code.name}={version}"
        yield from publisher.publish(component, version, make, deploy=deploy, dry_run=publishing.dry_run)
    elif publishing.dry_run:
        yield f"would write {component} {version} to {out}"
    else:
        files = make(out)
        recipes = out / "recipes"
        # As the command lines of both nuclei expect the files of a local deployment.
        recipe = (recipes / f"{component}.yaml").replace(recipes / f"{component}-{version}.yaml")
        count = f"{len(files)} file{'s' * (len(files) != 1)}"
        yield f"wrote {component} {version} ({count}: {_few(files)}) to {out}"
        yield (f"  fedgrass core deploy --recipe {recipe} --artifacts {out / 'artifacts'}")


def _few(files: list[str]) -> str:
    most = 8
    return ", ".join(files[:most]) + (f" and {len(files) - most} more" if len(files) > most else "")


def _code(source: TaskSource, publishing: PublishingOptions, task: str, folder: Path) -> TaskCode:
    """Return what the component is made of, with its requirements pinned."""
    check_pythons(publishing.python)
    platforms = chosen_platforms(publishing.platform)
    pythons = tuple(dict.fromkeys(publishing.python)) or PYTHONS
    default = source.path / "requirements.txt"
    file = source.requirements or (default if default.is_file() else None)
    wanted = read_requirements(file) if file else []
    targets = [(one, python) for one in platforms for python in pythons]
    requirements, wheels = pinned(wanted, str(file), targets, folder if publishing.bundle else None)
    return TaskCode(
        name=task,
        module=source.location,
        folder=source.path,
        include=source.include,
        requirements=requirements,
        wheels=wheels,
        platforms=platforms,
    )


def check_pythons(pythons: Iterable[str]) -> None:
    """Check the values of --python. Raises SettingsError."""
    for python in pythons:
        if not _PYTHON.fullmatch(python):
            message = f"--python is {python!r}; it takes a version such as 3.11"
            raise SettingsError(message)


def chosen_platforms(given: Sequence[str]) -> tuple[str, ...]:
    """Return Greengrass's architectures that --platform names; without it, all."""
    return tuple(one for one in PLATFORMS if one in given) or tuple(PLATFORMS)


def pinned(
    wanted: Sequence[Requirement], named: str, targets: Sequence[Target], folder: Path | None
) -> tuple[str, list[Path]]:
    """Return requirements pinned for all targets, and the files of their packages.

    Args:
        wanted: the requirements.
        named: where they are from.
        targets: platforms and versions of Python.
        folder: where to download the files; None: they are not bundled.

    Raises:
        SettingsError: they cannot be met, or not be downloaded.
    """
    if not wanted:
        return "", []
    say(f"pinning {named} for {len(targets)} combinations of platform and Python")
    resolved = resolve(wanted, targets)
    found = frozen(resolved)
    if not found:
        say("the trainer has all of its requirements already")
        return "", []
    names = sorted({line.partition("==")[0] for line in found.splitlines() if "==" in line})
    say(f"the devices install next to the trainer's packages: {', '.join(names)}")
    return found, download(resolved, folder) if folder else []


def _check(code: TaskCode, folder: Path, given: Mapping[str, Value], *, full: bool) -> None:
    """Check the task in a folder with the files of its component; exit with an error if it fails."""
    options = {
        "name": code.module,
        "path": str(staged(code, folder)),
        "shown": str(code.folder.absolute()),
        "options": given,
        "full": full,
    }
    if run_in_child("fedgrass.local.task_publishing:check_in_child", options, say):
        fail(f"nothing was published: mend {code.module}, then repeat the command")


def staged(code: TaskCode, folder: Path) -> Path:
    """Copy the files of a component to a folder below ``folder``, as on a device; return it."""
    module, _ = task_component.checked_location(code.module)
    target = folder / "files"
    for name, path in (code.files or task_files(code.folder, module, code.include)).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(path.read_bytes())
    return target


def check_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Check in the child process that the class is found, and the task if its data are here."""

    def report(line: str) -> None:
        say(line.replace(options["path"], options["shown"]))

    note("import")
    name, place = options["name"], Path(options["path"])
    try:
        found = find_class("published", {"module": name, "path": options["path"]})
    except ComponentError as error:
        report(f"FAIL  import: {explain_loading(error, name.partition(':')[0])}{_advice(error)}")
        return 1
    except BaseException as error:  # the module is user code, and may raise anything
        if is_interruption(error):
            raise
        report(f"FAIL  import: {explain(error)}")
        return 1
    if missing := [method for method in METHODS if not callable(getattr(found, method, None))]:
        report(f"FAIL  import: {name} has no method {missing[0]!r}; a task needs {', '.join(METHODS)}")
        return 1
    report(f"ok    import: {name} is found in the files of its component")
    if not options["full"]:
        return 0
    note("creation")
    try:
        load(name, place, options["options"])
    except FedgrassError as error:
        report(f"note  creation: {error}")
        report(
            "note  the task cannot be created here, so only its import was checked: its data may be on the"
            " devices alone; `fedgrass task check` on one of them checks the rest. A file that belongs to the"
            " task, such as its frozen arrays, is added by --include"
        )
        return 0
    return check_task(CheckOptions(name=name, path=place, options=options["options"]), report, note)


def _advice(error: ComponentError) -> str:
    missing = getattr(error.__cause__, "name", None)
    if isinstance(error.__cause__, ModuleNotFoundError) and missing:
        top = missing.partition(".")[0]
        return f" (add a file by --include, or install a requirement here too: pip install {top})"
    return ""
