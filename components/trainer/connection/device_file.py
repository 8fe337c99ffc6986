"""A device without Greengrass: the device file, the environment for AWS's SDK, and readiness for systemd.

The device file is TOML, or JSON if its name ends in ``.json``. It has two tables: ``connection``, read once,
and ``trainer``, the configuration that a deployment of the component would contain, read again on SIGHUP.
The environment restricts AWS's SDK to credentials obtained with the device's certificate.
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
from fedgrass.federation.messages.message_fields import RULES, THING_NAME

DEFAULT_FILE = Path("/etc/fedgrass/device.toml")
_TABLES = ("connection", "trainer")
_SCRIPT = Path(__file__).resolve().with_name("iot_credentials.py")
# The environment may set the endpoints of AWS, but not the device's identity: in the SDK's credential chain,
# static keys, profiles and roles take precedence over a credential process.
_OF_AWS = "AWS_"
_KEPT = ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE")
_NOTIFY_SECONDS = 1.0
log = logging.getLogger(__name__)
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
    """The device's identity, the endpoints of AWS, and the files that authenticate the two."""

    thing: ThingName
    endpoint: HostName  # of AWS IoT Core: aws iot describe-endpoint --endpoint-type iot:Data-ATS
    certificate: FileName
    private_key: FileName
    credentials_endpoint: HostAndPort  # aws iot describe-endpoint --endpoint-type iot:CredentialProvider
    role_alias: RoleAlias  # the stack's output DeviceRoleAlias
    region: Region
    port: Port = 8883  # or 443, where a firewall allows no other
    root_ca: str = ""  # file of the authority of both endpoints; empty: those that the system trusts
    work_folder: str = "/var/lib/fedgrass"


def read_device_file(path: Path) -> tuple[Connection, dict[str, Any]]:
    """Return the connection and the trainer's values of a file; paths in it are relative to its folder.

    Raises:
        ConfigurationError: it cannot be read or used; the text names the file, the value and a remedy.
    """
    tables = _tables(path)
    if unknown := sorted(set(tables) - set(_TABLES)):
        message = f"{path} has an unknown table {shown(unknown[0])}: {nearest(unknown[0], _TABLES)}"
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
    return _with_absolute_paths(connection, path.parent), _with_s3_uploader(trainer, path)


def _toml(text: str, path: Path) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - new in Python 3.11

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
        message = f"the device's file {path} is not valid {kind}: {error}"
        raise ConfigurationError(message) from error
    if not isinstance(found, dict):
        message = f"the device's file {path} holds {shown(found)}; it has to be an object"
        raise ConfigurationError(message)
    return found


def _with_absolute_paths(connection: Connection, folder: Path) -> Connection:
    """Return the connection with absolute paths, after checking that its files can be read."""
    names = ("certificate", "private_key", *(["root_ca"] if connection.root_ca else []))
    files = {name: (folder / getattr(connection, name)).absolute() for name in names}
    for name, file in files.items():
        try:
            file.open("rb").close()
        except OSError as error:
            message = f"the device's {name} {file} cannot be read: {error.strerror}"
            raise ConfigurationError(message) from error
    paths = {name: str(file) for name, file in files.items()}
    work_folder = str((folder / connection.work_folder).absolute())
    values = {name: getattr(connection, name) for name in Connection.__struct_fields__}
    return Connection(**{**values, **paths, "work_folder": work_folder})


def _with_s3_uploader(trainer: dict[str, Any], path: Path) -> dict[str, Any]:
    if trainer.get("uploader", "s3") != "s3":
        message = (
            f"{path}: the trainer's uploader is {shown(trainer['uploader'])}; a device without Greengrass"
            " can only upload to S3 directly: leave it out, or set it to s3"
        )
        raise ConfigurationError(message)
    return {**trainer, "uploader": "s3"}


def use_certificate(connection: Connection, folder: Path) -> None:
    """Make this process and its children obtain credentials with the certificate.

    ``folder`` gets the SDK's configuration file and the cache of the credentials. A worker inherits the
    environment, so the session's code does not depend on where credentials come from.
    """
    config = folder / "aws_config"
    text = f"[default]\nregion = {connection.region}\ncredential_process = {_command(connection, folder)}\n"
    write_atomically(config, text.encode())
    for name in [each for each in os.environ if each.startswith(_OF_AWS) and not each.startswith(_KEPT)]:
        del os.environ[name]
    os.environ.update(
        {
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": connection.region,
            "AWS_DEFAULT_REGION": connection.region,
            "AWS_IOT_THING_NAME": connection.thing,  # as on a nucleus
        }
    )


def _command(connection: Connection, folder: Path) -> str:
    words = [sys.executable, str(_SCRIPT)]
    words += ["--url", credentials_url(connection), "--thing", connection.thing]
    words += ["--certificate", connection.certificate, "--private-key", connection.private_key]
    words += ["--root-ca", connection.root_ca] if connection.root_ca else []
    words += ["--cache", str(folder / "credentials.json")]
    return shlex.join(words)


def credentials_url(connection: Connection) -> str:
    """Return the URL of the role alias's credentials; the provider defines its path."""
    return f"https://{connection.credentials_endpoint}/role-aliases/{connection.role_alias}/credentials"


def notify_ready() -> None:
    """Notify systemd that the device is in its fleet, if the service has Type=notify."""
    if not (name := os.environ.get("NOTIFY_SOCKET")):
        return
    # A name that begins with @ is in Linux's abstract namespace (sd_notify(3)).
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(_NOTIFY_SECONDS)
            notify.sendto(b"READY=1", address)
    except OSError as error:
        log.info("systemd could not be notified: %s", error)
