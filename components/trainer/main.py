"""The trainer's main process: wires the session to its host and runs it until that ends it.

The host is the Greengrass nucleus, or, with ``--mqtt``, a connection of the device's own to AWS IoT Core.

It stays small, so that it may run on any device all the time: torch, numpy and boto3 live in processes
that are there only while there is work.
"""

import argparse
import logging
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from components import token_exchange
from components.component_process import (
    LOST,
    WRONG_CONFIGURATION,
    component_version,
    end_on_signals,
    thing_name,
)
from components.last_configuration import LastConfiguration
from components.trainer.configuration import Configuration, parse_configuration
from components.trainer.errors import ConfigurationError, ConnectionLost, NotSent, TrainerError
from components.trainer.events import EventLoop
from components.trainer.exits import ExitBudget
from components.trainer.journal import Journal
from components.trainer.plain_device import DEFAULT_FILE, read_device_file
from components.trainer.ports import Host
from components.trainer.power import read_power
from components.trainer.reconfiguration import Reconfiguration
from components.trainer.session import Session
from components.trainer.trouble import WorkTrouble
from components.trainer.update_deferral import UpdateDeferral
from components.trainer.uploaders import Uploaders
from components.trainer.worker_process import WorkerProcess
from components.trainer.workplace import Workplace
from fedgrass.federation.errors import SettingsError

UPDATES = "updates"  # folder of the updates, in the component's work folder
log = logging.getLogger("trainer")


def main(words: Sequence[str] = ()) -> int:
    """Run until the host ends the process; return its exit code (0 only when it was asked to end)."""
    plain_file = _options(words).mqtt
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        code = _connect_and_run(plain_file)
    except (ConfigurationError, SettingsError) as error:
        log.error("%s", error)  # noqa: TRY400 - a line, no traceback
        return WRONG_CONFIGURATION
    except (ConnectionLost, NotSent) as error:
        log.error("%s: exiting, to be started again", error)  # noqa: TRY400
        code = LOST
    except TrainerError as error:
        # The operator's to mend: a nucleus that gives the component up shows it.
        log.error("%s", error)  # noqa: TRY400
        return LOST
    return _leave(ExitBudget(Path.cwd())) if code and os.environ.get(token_exchange.FROM_NUCLEUS) else code


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


def _connect_and_run(plain_file: Path | None) -> int:
    loop = EventLoop()
    end_on_signals(loop)

    def lost(reason: str) -> None:
        loop.post(lambda: _give_up(loop, reason))

    host = _connect_by_mqtt(plain_file, lost) if plain_file else _connect_to_nucleus(lost)
    try:
        # Without Greengrass a file that cannot be used ends the service, where its operator sees it.
        last = None if plain_file else LastConfiguration(Path.cwd())
        return _run(loop, host, ExitBudget(Path.cwd()), last)
    finally:
        host.close()


def _leave(exits: ExitBudget) -> int:
    """Return the exit code of a failure, once it will not make the nucleus give the component up."""
    if wait := exits.seconds_to_wait():
        log.error(
            "waiting for %.0f minutes: a nucleus gives a component up that fails three times in an hour",
            wait / 60,
        )
        rest = EventLoop()
        end_on_signals(rest)
        rest.call_later(wait, lambda: rest.stop(LOST))
        if rest.run() == 0:
            return 0
    exits.take()
    return LOST


def _run(loop: EventLoop, nucleus: Host, exits: ExitBudget, last: LastConfiguration | None) -> int:
    configuration, refused = _configuration(nucleus, last)
    rng = random.Random()  # noqa: S311 - jitter, no secret
    worker = WorkerProcess(loop.post, configuration.bounds)
    uploaders = Uploaders(Path.cwd(), configuration)

    def look_again() -> None:
        if token_exchange.find_again(nucleus.token_exchange_port):
            worker.find_credentials_at(os.environ[token_exchange.ADDRESS])

    workplace = Workplace(
        thing=thing_name(),
        folder=Path.cwd() / UPDATES,
        loop=loop,
        journal=Journal(Path.cwd()),
        worker=worker,
        exits=exits,
        uploader=uploaders.current,
        rng=rng,
        measure=read_power,
        trouble=WorkTrouble(look_again),
    )
    session = Session(
        workplace,
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
        keep(changed)
        worker.bounds = changed.bounds
        uploaders.configure(changed)
        session.configure(changed)

    Reconfiguration(loop, nucleus, rng, configure=configure, refuse=session.refuse_configuration).watch()
    UpdateDeferral(
        loop,
        nucleus,
        work=lambda: session.work_in_hand,
        longest=lambda: session.configuration.defer_update_seconds,
    ).watch()
    session.start()
    try:
        return loop.run()
    finally:
        worker.close()
        uploaders.close()


def _configuration(host: Host, last: LastConfiguration | None) -> tuple[Configuration, str]:
    """Return the configuration to work by, and why it is not the deployed one; empty if it is.

    Nucleus Lite restarts a component whose configuration changes, and rolls nothing back: a process that
    ended over a wrong value would be given up after three starts, and the device would be lost to its fleet.

    Raises:
        ConfigurationError: the configuration cannot be used, and there is no earlier one.
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
