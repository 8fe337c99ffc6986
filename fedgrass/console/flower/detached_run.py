"""``fedgrass flower run --detach`` and ``flower serve``: a ServerApp in a container of the stack.

operator's terminal                              container
app's files + command line -> bucket
run_task(`flower serve RUN`)  -> Fargate ->      bucket -> folder; `flower run FOLDER --name RUN ...` or,
                                                 if there is such a run, `flower resume RUN FOLDER`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud_functions.aws.s3 import S3Bucket
from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.flower.app_archive import LARGEST_ARCHIVE, pack, unpack
from fedgrass.console.flower.flower_files import app_files
from fedgrass.console.flower.flower_project import FlowerProject
from fedgrass.console.flower.server_app_task import ServerAppTasks
from fedgrass.console.main import run
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.terminal import say
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name


class DetachedRun:
    """A run whose ServerApp is in a container.

    Args:
        clients: returns the boto3 client of a service.
        stack: name of the stack.
        outputs: of the stack.
        run: name of the run.

    Raises:
        SettingsError: the stack has no containers for ServerApps.
    """

    def __init__(self, clients: Clients, stack: str, outputs: Mapping[str, str], run: str) -> None:
        self._tasks = ServerAppTasks(clients, stack, outputs)
        self._bucket = S3Bucket(clients("s3"), outputs["BucketName"])
        self._run = run

    def start(self, files: Mapping[str, Path], words: Sequence[str]) -> list[str]:
        """Upload an app and start its container; return lines for the operator.

        Args:
            files: of the app, by their names below its folder.
            words: of the command line after ``fedgrass flower run APP_DIR``.

        Raises:
            SettingsError: another app has been uploaded for a run of this name, or the app is too large.
            StackError: the container cannot be started.
        """
        data, key = pack(files, words), object_keys.server_app_files(self._run)
        if self._bucket.write_once(key, data) != data:
            message = f"another app is at {key}: choose another --name for the run"
            raise SettingsError(message)
        return self._start()

    def resume(self) -> list[str]:
        """Start the container of a run again; return lines for the operator.

        Raises:
            SettingsError: the run was not started with ``--detach``, or its container is running.
            StackError: the container cannot be started.
        """
        if not self._bucket.exists(object_keys.server_app_files(self._run)):
            message = (
                f"the app of the run {self._run!r} is not in the bucket, because the run was not started with"
                " --detach: resume it without --detach"
            )
            raise SettingsError(message)
        return self._start()

    def _start(self) -> list[str]:
        return self._tasks.advice(self._run, self._tasks.start(self._run))


def start(  # noqa: PLR0913 - the options of the command
    project: FlowerProject,
    name: str,
    *,
    stack_name: str,
    settings: Sequence[str],
    app_name: str,
    run_config: Sequence[str],
) -> None:
    """Start the ServerApp of a new run in a container, and print how to follow it.

    Args:
        project: the app.
        name: of the run.
        stack_name: name of the stack.
        settings: setting=value, which were checked.
        app_name: name of the task after ``flower:``; empty: that of the app.
        run_config: values of the app's configuration to override, which were checked.

    Raises:
        SettingsError: there is such a run, another app of this name, or no container in the stack.
        StackError: the container cannot be started.
    """
    outputs = stack.outputs(stack_name)
    detached = DetachedRun(stack.client, stack_name, outputs, name)
    if name in Operator(stack.client, outputs).runs():
        message = f"run {name!r} exists: `fedgrass flower resume {name} --detach` continues it"
        raise SettingsError(message)
    words = [*settings, "--name", name]
    words += ["--app-name", app_name] if app_name else []
    words += [word for given in run_config for word in ("--run-config", given)]
    for line in detached.start(app_files(project), words):
        say(line)


def resume(stack_name: str, name: str) -> None:
    """Start the container of a run again, and print how to follow it; raises as ``DetachedRun.resume``."""
    for line in DetachedRun(stack.client, stack_name, stack.outputs(stack_name), name).resume():
        say(line)


def command_line(run: str, app: Path, words: Sequence[str], stack: str, *, known: bool) -> list[str]:
    """Return the words of the command that the container runs.

    Args:
        run: name of the run.
        app: folder of the app.
        words: of the command line after ``fedgrass flower run APP_DIR``.
        stack: name of the stack.
        known: the run exists: this container replaces one that was stopped.
    """
    if known:
        return ["flower", "resume", run, str(app), "--stack", stack]
    return ["flower", "run", str(app), *words, "--stack", stack]


@stack.refusals()
def serve_command(run_name: str, *, stack_name: str, apps: Path) -> None:
    """Run the app that ``fedgrass flower run --detach`` uploaded for a run; the command of the container."""
    name = checked_name("run", run_name)
    outputs = stack.outputs(stack_name)
    key = object_keys.server_app_files(name)
    try:
        data = S3Bucket(stack.client("s3"), outputs["BucketName"]).read(key, LARGEST_ARCHIVE)
    except KeyError as error:
        message = f"there is no app at {key}: start the run by `fedgrass flower run APP_DIR --detach`"
        raise SettingsError(message) from error
    folder = apps / name
    words = unpack(data, folder)
    known = name in Operator(stack.client, outputs).runs()
    run(command_line(name, folder, words, stack_name, known=known))
