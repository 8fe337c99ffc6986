"""The trainer's main process: wires the session to its host and runs it until that ends it.

The host is the Greengrass nucleus, or, with ``--mqtt``, a connection of the device's own to AWS IoT Core.

It stays small, so that it may run on any device all the time: torch, numpy and boto3 live in the worker.
"""

import argparse
import logging
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from components.trainer.assignment import Workplace
from components.trainer.configuration import Configuration, parse_configuration
from components.trainer.errors import ConfigurationError, TrainerError
from components.trainer.events import EventLoop, Timer
from components.trainer.journal import Journal
from components.trainer.plain_device import DEFAULT_FILE, read_device_file
from components.trainer.ports import Host, Uploader
from components.trainer.power import read_power
from components.trainer.presence import LOST
from components.trainer.session import Session
from components.trainer.worker_process import WorkerProcess
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.names import checked_name

UPDATES = "updates"  # folder of the updates, in the component's work folder
SETTLING_SECONDS = 0.5  # a deployment changes many values: they are read once, when it is done
WRONG_CONFIGURATION = 78  # EX_CONFIG of sysexits.h
ENDING_SECONDS = 2
log = logging.getLogger("trainer")


def main(words: Sequence[str] = ()) -> int:
    """Run until the host ends the process; return its exit code (0 only when it was asked to end)."""
    plain_file = _options(words).mqtt
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    loop = EventLoop()
    _end_on_signals(loop)

    def lost(reason: str) -> None:
        loop.post(lambda: _give_up(loop, reason))

    host: Host | None = None
    try:
        host = _connect_by_mqtt(plain_file, lost) if plain_file else _connect_to_nucleus(lost)
        return _run(loop, host)
    except (ConfigurationError, SettingsError) as error:
        log.error("%s", error)  # noqa: TRY400 - a line, no traceback
        return WRONG_CONFIGURATION
    except TrainerError as error:
        log.error("%s: exiting, to be started again", error)  # noqa: TRY400
        return LOST
    finally:
        if host:
            host.close()


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="components.trainer", description="Trains on this device's data.")
    parser.add_argument(
        "--mqtt",
        type=Path,
        nargs="?",
        const=DEFAULT_FILE,
        metavar="FILE",
        help=f"run without Greengrass, as this file describes the device ({DEFAULT_FILE})",
    )
    return parser.parse_args(words)


def _connect_to_nucleus(lost: Callable[[str], None]) -> Host:
    # Imported here, and below: a device has what it needs of the two and not the other.
    from components.trainer.greengrass import GreengrassNucleus  # noqa: PLC0415

    return GreengrassNucleus.connect(lost)


def _connect_by_mqtt(file: Path, lost: Callable[[str], None]) -> Host:
    from components.trainer.aws_environment import use_certificate  # noqa: PLC0415
    from components.trainer.mqtt import MqttConnection  # noqa: PLC0415

    file = file.absolute()
    connection, _ = read_device_file(file)
    folder = Path(connection.work_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)  # as the nucleus starts a component in its work folder
        use_certificate(connection, folder)
    except OSError as error:
        message = f"the device's work_folder {folder} cannot be used: {error.strerror}"
        raise ConfigurationError(message) from error
    made = MqttConnection(file, connection, lost)
    made.open()
    return made


def _end_on_signals(loop: EventLoop) -> None:
    def end(number: int, _: object) -> None:
        log.info("asked to end by %s", signal.Signals(number).name)
        loop.post(lambda: loop.stop(0))
        # A call to a nucleus that hangs would keep the loop for longer; the alarm's own action is to end.
        signal.alarm(ENDING_SECONDS)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _run(loop: EventLoop, nucleus: Host) -> int:
    configuration = parse_configuration(nucleus.configuration())
    worker = WorkerProcess(loop.post, configuration.threads)
    uploaders = Uploaders(Path.cwd(), configuration.uploader)
    workplace = Workplace(
        thing=_thing(),
        folder=Path.cwd() / UPDATES,
        loop=loop,
        journal=Journal(Path.cwd()),
        worker=worker,
        uploader=uploaders.current,
        rng=random.Random(),  # noqa: S311 - jitter, no secret
        measure=read_power,
    )
    session = Session(workplace, nucleus, configuration, component_version(), nucleus.report_running)

    def configure(changed: Configuration) -> None:
        worker.threads = changed.threads
        uploaders.choose(changed.uploader)
        session.configure(changed)

    Reconfiguration(loop, nucleus, configure).watch()
    session.start()
    try:
        return loop.run()
    finally:
        worker.close()


def _give_up(loop: EventLoop, reason: str) -> None:
    log.error("%s: exiting, to be started again", reason)
    loop.stop(LOST)


def _thing() -> str:
    try:
        return checked_name("thing", os.environ["AWS_IOT_THING_NAME"])
    except KeyError as error:
        message = f"the nucleus has to say which thing this is, in the variable {error}"
        raise ConfigurationError(message) from error


def component_version() -> str:
    """Return the version of the component that this file belongs to; empty if it is run from elsewhere.

    The nucleus unpacks an artifact into ``.../<component>/<version>/<artifact>`` and tells the version in no
    other way.
    """
    folder = Path(__file__).resolve().parents[3].name
    return folder if re.fullmatch(r"\d+\.\d+\.\d+[\w.+-]*", folder) else ""


class Uploaders:
    """The uploader that the configuration names, made on first use."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._made: dict[str, Uploader] = {}

    def choose(self, name: str) -> None:
        """Upload by this one from now on."""
        self._name = name

    def current(self) -> Uploader:
        """Return the uploader to use now."""
        if self._name not in self._made:
            self._made[self._name] = self._make()
        return self._made[self._name]

    def _make(self) -> Uploader:
        if self._name == "s3":
            # Imported here, since boto3 doubles the memory of a process that may never need it.
            from components.trainer.storage import S3Uploader  # noqa: PLC0415

            return S3Uploader()
        from components.trainer.stream_upload import StreamUploader  # noqa: PLC0415

        return StreamUploader(self._folder)


class Reconfiguration:
    """Takes up changes of the component's configuration; what cannot be used changes nothing."""

    def __init__(self, loop: EventLoop, nucleus: Host, configure: Callable[[Configuration], None]) -> None:
        self._loop = loop
        self._nucleus = nucleus
        self._configure = configure
        self._settling: Timer | None = None

    def watch(self) -> None:
        """Begin to watch; a nucleus that cannot tell of changes is logged, and needs a restart for them."""
        try:
            self._nucleus.watch_configuration(lambda: self._loop.post(self._changed))
        except TrainerError as error:
            log.warning("%s", error)

    def _changed(self) -> None:
        if self._settling:
            self._settling.cancel()
        self._settling = self._loop.call_later(SETTLING_SECONDS, self._read)

    def _read(self) -> None:
        try:
            configuration = parse_configuration(self._nucleus.configuration())
        except TrainerError as error:
            log.warning("the configuration stays as it was: %s", error)
            return
        log.info("took up a changed configuration")
        self._configure(configuration)
