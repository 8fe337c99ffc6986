"""The trainer's main process: connect the session to its host, worker and uploader, and run until ended.

The host is the Greengrass nucleus or, with ``--mqtt``, a direct connection to AWS IoT Core. This process
stays small, because it runs all the time: only processes that end after an assignment load torch, numpy and
boto3.
"""

import argparse
import logging
import os
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from components.runtime import token_exchange_address
from components.runtime.component_errors import (
    ComponentError,
    ConfigurationError,
    ConnectionLost,
    Unavailable,
)
from components.runtime.configuration_watch import ConfigurationWatch
from components.runtime.event_loop import EventLoop
from components.runtime.process_setup import (
    LOST,
    WRONG_CONFIGURATION,
    LastConfiguration,
    component_version,
    end_on_signals,
    thing_name,
)
from components.trainer.connection.device_file import DEFAULT_FILE, read_device_file
from components.trainer.device_log.log_answers import LogAnswerPorts, LogAnswers
from components.trainer.device_log.log_ring import FOLDER, LogRing, recorded_log
from components.trainer.session.device_context import DeviceContext, WorkTrouble
from components.trainer.session.device_session import Session
from components.trainer.session.eligibility import read_power
from components.trainer.session.journal import Journal
from components.trainer.session.restarts import RestartBudget, UpdateDeferral
from components.trainer.session.session_ports import Host, Uploader
from components.trainer.trainer_configuration import Configuration, parse_configuration
from components.trainer.upload.s3_upload_process import S3UploadProcess
from components.trainer.worker.worker_process import WorkerProcess
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.device_log import WORKER

_LOG_NICENESS = 10  # of the process that uploads log lines: trainings go first
_UPDATES = "updates"  # folder in the component's work folder
log = logging.getLogger("trainer")


def main(words: Sequence[str] = ()) -> int:
    """Run until the host ends the process; return its exit code (0 only if it was asked to end)."""
    plain_file = _options(words).mqtt
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    with recorded_log() as ring:
        return _exit_code(plain_file, ring)


def _exit_code(plain_file: Path | None, ring: LogRing) -> int:
    try:
        code = _connect_and_run(plain_file, ring)
    except (ConfigurationError, SettingsError) as error:
        log.error("%s", error)  # noqa: TRY400 - one line without a traceback
        return WRONG_CONFIGURATION
    except (ConnectionLost, Unavailable) as error:
        log.error("%s: exiting, to be started again", error)  # noqa: TRY400 - one line without a traceback
        code = LOST
    except ComponentError as error:
        # Only the operator can correct it, and sees it once the nucleus marks the component BROKEN.
        log.error("%s", error)  # noqa: TRY400 - one line without a traceback
        return LOST
    return (
        _leave(RestartBudget(Path.cwd()))
        if code and os.environ.get(token_exchange_address.FROM_NUCLEUS)
        else code
    )


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="components.trainer", description="Trains on this device's data.")
    parser.add_argument(
        "--mqtt",
        type=Path,
        nargs="?",
        const=DEFAULT_FILE,
        metavar="FILE",
        help=f"run without Greengrass; FILE describes the device ({DEFAULT_FILE})",
    )
    return parser.parse_args(words)


def _connect_to_nucleus(lost: Callable[[str], None], ring: LogRing) -> Host:
    # Imported here, and below: a device has the packages of only one of the two.
    from components.runtime.greengrass_ipc import GreengrassIpc  # noqa: PLC0415 - only on devices with Greengrass

    ring.keep_in(Path.cwd())
    return GreengrassIpc.connect(lost)


def _connect_by_mqtt(file: Path, lost: Callable[[str], None], ring: LogRing) -> Host:
    from components.trainer.connection.device_file import use_certificate  # noqa: PLC0415 - only with --mqtt
    from components.trainer.connection.mqtt_connection import MqttConnection  # noqa: PLC0415 - only with --mqtt

    file = file.absolute()
    connection, _ = read_device_file(file)
    folder = Path(connection.work_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)  # as the nucleus starts a component in its work folder
        ring.keep_in(folder)
        use_certificate(connection, folder)
    except OSError as error:
        message = f"the device's work_folder {folder} cannot be used: {error.strerror}"
        raise ConfigurationError(message) from error
    host = MqttConnection(file, connection, lost)
    host.open()
    return host


def _connect_and_run(plain_file: Path | None, ring: LogRing) -> int:
    loop = EventLoop()
    end_on_signals(loop)

    def lost(reason: str) -> None:
        loop.post(lambda: _give_up(loop, reason))

    host = _connect_by_mqtt(plain_file, lost, ring) if plain_file else _connect_to_nucleus(lost, ring)
    try:
        # Without Greengrass, an invalid file ends the service, where its operator sees it.
        last = None if plain_file else LastConfiguration(Path.cwd())
        return _run(loop, host, last, ring)
    finally:
        host.close()


def _leave(exits: RestartBudget) -> int:
    """Wait until a failure will not make the nucleus mark the component BROKEN; return the exit code."""
    if wait := exits.seconds_to_wait():
        log.error(
            "waiting for %.0f minutes: a nucleus gives up on a component that fails three times in an hour",
            wait / 60,
        )
        waiting = EventLoop()
        end_on_signals(waiting)
        waiting.call_later(wait, lambda: waiting.stop(LOST))
        if waiting.run() == 0:
            return 0
    exits.take()
    return LOST


def _run(loop: EventLoop, nucleus: Host, last: LastConfiguration | None, ring: LogRing) -> int:
    configuration, refused = _configuration(nucleus, last)
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    worker = WorkerProcess(loop.post, configuration.bounds, partial(ring.add, WORKER))
    uploaders = Uploaders(Path.cwd(), configuration)

    def look_again() -> None:
        if token_exchange_address.find_again(nucleus.token_exchange_port):
            worker.find_credentials_at(os.environ[token_exchange_address.ADDRESS])

    thing = thing_name()
    logs = LogAnswers(
        thing,
        component_version(),
        Path.cwd(),
        LogAnswerPorts(ring=ring, uploader=uploaders.of_logs, loop=loop, look_again=look_again),
    )
    context = DeviceContext(
        thing=thing,
        folder=Path.cwd() / _UPDATES,
        loop=loop,
        journal=Journal(Path.cwd()),
        worker=worker,
        restart_budget=RestartBudget(Path.cwd()),
        uploader=uploaders.current,
        rng=rng,
        measure=read_power,
        send_log=logs.answer,
        trouble=WorkTrouble(look_again),
    )
    session = Session(
        context,
        nucleus,
        configuration,
        component_version(),
        ready=nucleus.report_running,
        connection_trouble=nucleus.trouble,
    )
    nucleus.watch_subscriptions(
        lambda topic, reason: loop.post(lambda: session.subscription_lost(topic, reason))
    )

    def keep(usable: Configuration) -> None:
        if last:
            last.keep(msgspec.to_builtins(usable))

    if refused:
        session.refuse_configuration(refused)
    else:
        keep(configuration)

    def configure(changed: Configuration) -> None:
        log.info("took up a changed configuration")
        keep(changed)
        worker.bounds = changed.bounds
        uploaders.configure(changed)
        session.configure(changed)

    ConfigurationWatch(
        loop, nucleus, rng, parse=parse_configuration, apply=configure, refuse=session.refuse_configuration
    ).start()
    UpdateDeferral(
        loop,
        nucleus,
        work=lambda: session.work_in_progress,
        longest=lambda: session.configuration.defer_update_seconds,
    ).watch()
    session.start()
    try:
        return loop.run()
    finally:
        worker.close()
        logs.close()
        uploaders.close()


def _configuration(host: Host, last: LastConfiguration | None) -> tuple[Configuration, str]:
    """Return the usable configuration, and why it is not the deployed one; empty if it is.

    Nucleus Lite restarts a component whose configuration changes, and never rolls back: a process that exited
    because of a wrong value would be BROKEN after three starts, and the device lost to its fleet.

    Raises:
        ConfigurationError: the deployed one cannot be used, and there is no earlier one.
    """
    try:
        return parse_configuration(host.configuration()), ""
    except ConfigurationError as error:
        earlier = last.usable(parse_configuration) if last else None
        if earlier is None:
            raise
        log.warning("the configuration stays as it was before this start: %s", error)
        return earlier, str(error)


def _give_up(loop: EventLoop, reason: str) -> None:
    log.error("%s: exiting, to be started again", reason)
    loop.stop(LOST)


class Uploaders:
    """The uploaders, each created on first use and then kept."""

    def __init__(self, folder: Path, configuration: Configuration) -> None:
        self._folder = folder
        self._configuration = configuration
        self._stream_manager: Uploader | None = None
        self._s3: S3UploadProcess | None = None
        self._s3_limit = 0
        self._logs: S3UploadProcess | None = None

    def configure(self, configuration: Configuration) -> None:
        """Use the uploader of another configuration from now on."""
        self._configuration = configuration

    def close(self) -> None:
        """End the processes of uploads in progress."""
        for uploader in (self._s3, self._logs):
            if uploader:
                uploader.close()

    def current(self) -> Uploader:
        """Return the uploader that the configuration names."""
        if self._configuration.uploader == "s3":
            return self._s3_uploader(self._configuration.upload_bytes_per_second)
        self._stream_manager = self._stream_manager or self._stream_uploader()
        return self._stream_manager

    def of_logs(self) -> Uploader:
        """Return the uploader of log lines, which has to serve while another one uploads an update."""
        limit = self._configuration.upload_bytes_per_second
        self._logs = S3UploadProcess(self._folder / FOLDER, limit, niceness=_LOG_NICENESS)
        return self._logs

    def _stream_uploader(self) -> Uploader:
        # Imported here: a device without Greengrass has no SDK of Stream Manager.
        from components.trainer.upload.stream_manager_upload import StreamUploader  # noqa: PLC0415 - only with Greengrass

        return StreamUploader(self._folder)

    def _s3_uploader(self, limit: int) -> Uploader:
        if self._s3 is None or limit != self._s3_limit:
            self._s3, self._s3_limit = S3UploadProcess(self._folder, limit), limit
        return self._s3
