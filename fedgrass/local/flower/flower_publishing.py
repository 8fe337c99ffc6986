"""``fedgrass flower add``: try a Flower app, make the component of it, and publish it.

The road of ``fedgrass task publish``; what differs is which files belong to the component, and where its
requirements are listed.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedgrass.console import stack
from fedgrass.console.flower.flower_component import app_pythons, app_requirements, flower_code
from fedgrass.console.flower.flower_project import (
    PROJECT_FILE,
    FlowerProject,
    check_flwr,
    read_project,
    task_name,
)
from fedgrass.console.tasks.publishing_options import AppTrial, PublishingOptions
from fedgrass.console.tasks.task_component import TaskCode, component_name
from fedgrass.console.terminal import fail, say
from fedgrass.local.flower.flower_check import check_app
from fedgrass.local.task_publishing import check_pythons, chosen_platforms, pinned, publication


@stack.refusals()
def add_command(  # noqa: PLR0913 - the options of the command
    app: Path,
    *,
    stack_name: str,
    version: str,
    app_name: str,
    unpin: Sequence[str],
    trial: AppTrial,
    publishing: PublishingOptions,
) -> None:
    """Publish an app's component, delete one, or write one to a folder; print a line per step.

    Args:
        app: folder of the app.
        stack_name: name of the stack.
        version: to publish; empty: that of the app.
        app_name: name of the task after ``flower:``; empty: that of the app.
        unpin: packages whose version the app does not choose.
        trial: how the app is tried.
        publishing: what becomes of the component.
    """
    project = read_project(app)
    task = task_name(project, app_name)
    only_import = publishing.check == "import"
    with publication(publishing, stack_name, component_name(task), version or project.version) as carry_out:
        if carry_out is None:
            return
        flwr = check_flwr()
        with tempfile.TemporaryDirectory(prefix="fedgrass-flower-") as name:
            code = _code(publishing, unpin, project, task, flwr, Path(name))
            if check_app(trial, project, code, Path(name), only_import=only_import):
                unchecked = (
                    "" if only_import else ("; if it needs data that only the devices have: --check import")
                )
                fail(f"nothing was published: correct the app, then repeat the command{unchecked}")
            carry_out(code)
            if not publishing.dry_run and not publishing.out:
                for line in _next_steps(task):
                    say(line)


def _code(  # noqa: PLR0913, PLR0917 - what the component is made of
    publishing: PublishingOptions,
    unpin: Sequence[str],
    project: FlowerProject,
    task: str,
    flwr: str,
    folder: Path,
) -> TaskCode:
    check_pythons(publishing.python)
    pythons = app_pythons(project, list(publishing.python))
    wanted = app_requirements(project, flwr, unpin)
    flower_code(project, task, folder)  # refuses the app's files before uv, which takes seconds
    platforms = chosen_platforms(publishing.platform)
    targets = [(platform, python) for platform in platforms for python in pythons]
    requirements, wheels = pinned(
        wanted,
        f"flwr and the dependencies in {project.folder / PROJECT_FILE}",
        targets,
        folder if publishing.bundle else None,
    )
    return flower_code(project, task, folder, requirements=requirements, wheels=wheels, platforms=platforms)


def _next_steps(task: str) -> list[str]:
    """Return what follows the deployment: the line before names its command."""
    return [
        "then give each device its partition: fedgrass deploy devices --options-table partitions.csv",
        f"where partitions.csv has thing,option,value, then rows such as press-1,{task}.node-partition-id,0",
        f"and press-1,{task}.node-num-partitions,8",
    ]
