"""``fedgrass flower add``: try a Flower app, make the component of it, and publish it.

The road of ``fedgrass task publish``; what differs is which files belong to the component, and where its
requirements are listed.
"""

import argparse
import tempfile
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
from fedgrass.console.tasks.task_component import TaskCode, component_name
from fedgrass.console.terminal import fail, say
from fedgrass.local.flower.flower_check import check_app
from fedgrass.local.task_publishing import check_pythons, chosen_platforms, pinned, publication


@stack.refusals()
def add_command(arguments: argparse.Namespace) -> None:
    """Publish an app's component, delete one, or write one to a folder; print a line per step."""
    project = read_project(arguments.app)
    task = task_name(project, arguments.app_name)
    version = arguments.version or project.version
    with publication(arguments, component_name(task), version) as carry_out:
        if carry_out is None:
            return
        flwr = check_flwr()
        with tempfile.TemporaryDirectory(prefix="fedgrass-flower-") as name:
            code = _code(arguments, project, task, flwr, Path(name))
            if check_app(arguments, project, code, Path(name)):
                unchecked = (
                    ""
                    if arguments.check == "import"
                    else ("; if it needs data that only the devices have: --check import")
                )
                fail(f"nothing was published: correct the app, then repeat the command{unchecked}")
            carry_out(code)
            if not arguments.dry_run and not arguments.output:
                for line in _next_steps(task):
                    say(line)


def _code(
    arguments: argparse.Namespace, project: FlowerProject, task: str, flwr: str, folder: Path
) -> TaskCode:
    check_pythons(arguments.python)
    pythons = app_pythons(project, arguments.python)
    wanted = app_requirements(project, flwr, arguments.unpin)
    flower_code(project, task, folder)  # refuses the app's files before uv, which takes seconds
    platforms = chosen_platforms(arguments)
    targets = [(platform, python) for platform in platforms for python in pythons]
    requirements, wheels = pinned(
        wanted,
        f"flwr and the dependencies in {project.folder / PROJECT_FILE}",
        targets,
        folder if arguments.bundle else None,
    )
    return flower_code(project, task, folder, requirements=requirements, wheels=wheels, platforms=platforms)


def _next_steps(task: str) -> list[str]:
    """Return what follows the deployment: the line before names its command."""
    return [
        "then give each device its partition: fedgrass deploy devices --options-table partitions.csv",
        f"where partitions.csv has thing,option,value, then rows such as press-1,{task}.node-partition-id,0",
        f"and press-1,{task}.node-num-partitions,8",
    ]
