"""The file that describes a device without Greengrass: how it reaches AWS, and the trainer's configuration.

It is TOML, or JSON if its name ends so, with two tables: ``connection``, read once, and ``trainer``, what a
deployment of the component would say, read again at SIGHUP.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from components.trainer.errors import ConfigurationError
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
