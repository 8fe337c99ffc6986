"""``fedgrass flower run --detach`` and ``flower serve``: a ServerApp in a container of the stack.

operator's terminal                              container
app's files + command line -> bucket
run_task(`flower serve RUN`)  -> Fargate ->      bucket -> folder; `flower run FOLDER ...` or, if the run
                                                 has been started before, `flower resume RUN ...`
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud_functions.aws.s3 import S3Bucket
from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.flower.app_archive import LARGEST_ARCHIVE, pack, unpack
from fedgrass.console.flower.server_app_task import ServerAppTasks
from fedgrass.console.main import parse
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError


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
            message = f"another app is at {key}: choose another name for the run"
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


def command_line(run: str, app: Path, words: Sequence[str], *, known: bool) -> list[str]:
    """Return the words of the command that the container runs.

    Args:
        run: name of the run.
        app: folder of the app.
        words: of the command line after ``fedgrass flower run APP_DIR``.
        known: the run has been started before: a container that was stopped is replaced.
    """
    return ["flower", "resume" if known else "run", *([run] if known else []), str(app), *words]


@stack.refusals()
def serve_command(arguments: argparse.Namespace) -> None:
    """Run the app that ``fedgrass flower run --detach`` uploaded for a run; the command of the container."""
    outputs = stack.outputs(arguments.stack)
    key = object_keys.server_app_files(arguments.name)
    try:
        data = S3Bucket(stack.client("s3"), outputs["BucketName"]).read(key, LARGEST_ARCHIVE)
    except KeyError as error:
        message = f"there is no app at {key}: start the run by `fedgrass flower run APP_DIR --detach`"
        raise SettingsError(message) from error
    folder = arguments.folder / arguments.name
    words = unpack(data, folder)
    known = arguments.name in Operator(stack.client, outputs).runs()
    called = parse(command_line(arguments.name, folder, words, known=known))
    called.run(called)
