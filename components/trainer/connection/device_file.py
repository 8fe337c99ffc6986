"""A device without Greengrass: the device file, the environment for AWS's SDK, and readiness for systemd.

The device file is TOML, or JSON if its name ends so, with two tables: ``connection``, read once, and
``trainer``, the configuration that a deployment of the component would contain, read again at SIGHUP.
The environment makes AWS's SDK get its credentials by the device's certificate, and in no other way.
systemd is notified (sd_notify(3)) once the device is in its fleet.
"""

import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from components.runtime.atomic_file import write_atomically
from components.runtime.component_errors import ConfigurationError
from fedgrass.federation.conversion import convert, nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.names import RULES, THING_NAME

DEFAULT_FILE = Path("/etc/fedgrass/device.toml")
TABLES = ("connection", "trainer")
ThingName = Annotated[str, Meta(pattern=THING_NAME, description=RULES["thing"][1])]
HostName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}\Z", description="a host name, with no https:// before it"
    ),
]
HostAndPort = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?\Z",
        description="a host name, with no https:// before it",
    ),
]
RoleAlias = Annotated[
    str, Meta(pattern=r"^[\w=,@-]{1,128}\Z", description="1 to 128 letters, digits or one of _ = , @ -")
]
Region = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z", description="a region as AWS spells it")]
Port = Annotated[int, Meta(ge=1, le=65535)]
FileName = Annotated[str, Meta(min_length=1, description="the path of a file")]


class Connection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who the device is, where AWS is, and with which files it proves the one to the other."""

    thing: ThingName
    endpoint: HostName  # of IoT Core: aws iot describe-endpoint --endpoint-type iot:Data-ATS
    certificate: FileName
    private_key: FileName
    credentials_endpoint: HostAndPort  # aws iot describe-endpoint --endpoint-type iot:CredentialProvider
    role_alias: RoleAlias  # the stack's output DeviceRoleAlias
    region: Region
    port: Port = 8883  # or 443, where a firewall lets nothing else out
    root_ca: str = ""  # the authority behind both endpoints; empty: those that the system trusts
    work_folder: str = "/var/lib/fedgrass"


def read_device_file(path: Path) -> tuple[Connection, dict[str, Any]]:
    """Return the connection and the trainer's values of a file; paths in it are seen from its own folder.

    Raises:
        ConfigurationError: it cannot be read or used; the text names the file, the value and the way out.
    """
    tables = _tables(path)
    if unknown := sorted(set(tables) - set(TABLES)):
        message = f"{path} has {shown(unknown[0])}, which is no table of it: {nearest(unknown[0], TABLES)}"
        raise ConfigurationError(message)
    try:
        connection = convert(
            tables.get("connection", {}), Connection, whole=f"[connection] of {path}", part=f"{path}: "
        )
    except SettingsError as error:
        raise ConfigurationError(str(error)) from error
    trainer = tables.get("trainer", {})
    if not isinstance(trainer, dict):
        message = f"{path}: trainer is {shown(trainer)}; it has to be a table"
        raise ConfigurationError(message)
    return _placed(connection, path.parent), _for_no_greengrass(trainer, path)


def _toml(text: str, path: Path) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - Python 3.10 has none

        return tomllib.loads(text)
    message = f"the device's file {path} is TOML, which needs Python 3.11: write the same as JSON"
    raise ConfigurationError(message)


def _tables(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else _toml(text, path)
    except OSError as error:
        message = (
            f"the device's file {path} cannot be read: {error.strerror}; name it as --mqtt FILE"
            " (docs/plain_mqtt.md shows one)"
        )
        raise ConfigurationError(message) from error
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        message = f"the device's file {path} is no {kind}: {error}"
        raise ConfigurationError(message) from error
    if not isinstance(found, dict):
        message = f"the device's file {path} holds {shown(found)}; it has to be an object"
        raise ConfigurationError(message)
    return found


def _placed(connection: Connection, folder: Path) -> Connection:
    """Return the connection with its paths made absolute, and check that there are such files."""
    names = ("certificate", "private_key", *(["root_ca"] if connection.root_ca else []))
    places = {name: (folder / getattr(connection, name)).absolute() for name in names}
    for name, place in places.items():
        try:
            place.open("rb").close()
        except OSError as error:
            message = f"the device's {name} {place} cannot be read: {error.strerror}"
            raise ConfigurationError(message) from error
    found = {name: str(place) for name, place in places.items()}
    work_folder = str((folder / connection.work_folder).absolute())
    values = {name: getattr(connection, name) for name in Connection.__struct_fields__}
    return Connection(**{**values, **found, "work_folder": work_folder})


def _for_no_greengrass(trainer: dict[str, Any], path: Path) -> dict[str, Any]:
    if trainer.get("uploader", "s3") != "s3":
        message = (
            f"{path}: the trainer's uploader is {shown(trainer['uploader'])}; a device without Greengrass"
            " uploads by itself: leave it out, or say s3"
        )
        raise ConfigurationError(message)
    return {**trainer, "uploader": "s3"}


SCRIPT = Path(__file__).resolve().with_name("iot_credentials.py")
# Where AWS is may be said by the environment; who the device is may not: static keys, profiles and roles come
# before a process in the chain in which the SDK looks for credentials.
OF_AWS = "AWS_"
KEPT = ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE")


def use_certificate(connection: Connection, folder: Path) -> None:
    """Have this process, and those that it starts, get credentials by the certificate.

    ``folder`` gets the SDK's configuration file and the cache of the credentials. A worker that is started
    later finds the same by its environment; so the session's code need not know where credentials come from.
    """
    config = folder / "aws_config"
    text = f"[default]\nregion = {connection.region}\ncredential_process = {_command(connection, folder)}\n"
    write_atomically(config, text.encode())
    for name in [each for each in os.environ if each.startswith(OF_AWS) and not each.startswith(KEPT)]:
        del os.environ[name]
    os.environ.update(
        {
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": connection.region,
            "AWS_DEFAULT_REGION": connection.region,
            "AWS_IOT_THING_NAME": connection.thing,  # as the nucleus tells it
        }
    )


def _command(connection: Connection, folder: Path) -> str:
    words = [sys.executable, str(SCRIPT)]
    words += ["--url", credentials_url(connection), "--thing", connection.thing]
    words += ["--certificate", connection.certificate, "--private-key", connection.private_key]
    words += ["--root-ca", connection.root_ca] if connection.root_ca else []
    words += ["--cache", str(folder / "credentials.json")]
    return shlex.join(words)


def credentials_url(connection: Connection) -> str:
    """Return where the role alias's credentials are; the path is the provider's own."""
    return f"https://{connection.credentials_endpoint}/role-aliases/{connection.role_alias}/credentials"


TELL_SECONDS = 1.0
log = logging.getLogger(__name__)


def tell_ready() -> None:
    """Tell systemd that the device is in its fleet, if systemd wants to know (Type=notify)."""
    if not (place := os.environ.get("NOTIFY_SOCKET")):
        return
    # A name that begins with @ is in Linux's abstract namespace (sd_notify(3)).
    address = "\0" + place[1:] if place.startswith("@") else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.settimeout(TELL_SECONDS)
            told.sendto(b"READY=1", address)
    except OSError as error:
        log.info("systemd could not be told: %s", error)
