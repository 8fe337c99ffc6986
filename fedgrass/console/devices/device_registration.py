"""A device in the registry of AWS IoT: its certificates, thing groups and attributes."""

from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from fedgrass.console.aws_clients import Clients
from fedgrass.console.deferred import deferred

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

_CERTIFICATE = ":cert/"
_EXPIRY = deferred("fedgrass.console.provisioning.fleet_provisioning:expiry_of")  # imports cryptography


class DeviceCertificate(Struct, frozen=True, kw_only=True):
    """A certificate with which the device may connect."""

    id: str
    status: str  # ACTIVE, INACTIVE, REVOKED, ...; empty: not known
    expires_at: int | None  # in milliseconds since the epoch; None: not known


class DeviceRegistration(Struct, frozen=True, kw_only=True):
    """What AWS IoT has about a thing."""

    registered: bool | None  # whether the thing exists; None: not known
    thing_type: str = ""
    thing_attributes: dict[str, str] = {}
    thing_groups: list[str] = []
    certificates: list[DeviceCertificate] = []
    errors: list[str] = []  # what could not be read, and why


def read_registration(clients: Clients, thing: str) -> DeviceRegistration:
    """Return what AWS IoT has about a thing; what may not be read is reported in ``errors``."""
    iot, errors = clients("iot"), list[str]()
    try:
        described = iot.describe_thing(thingName=thing)
    except (BotoCoreError, ClientError) as error:
        if _code(error) == "ResourceNotFoundException":
            return DeviceRegistration(registered=False)
        return DeviceRegistration(registered=None, errors=[f"the thing cannot be read: {error}"])
    groups: list[str] = []
    try:
        groups = sorted(
            group["groupName"]
            for page in iot.get_paginator("list_thing_groups_for_thing").paginate(thingName=thing)
            for group in page["thingGroups"]
        )
    except (BotoCoreError, ClientError) as error:
        errors.append(f"its thing groups cannot be read: {error}")
    certificates: list[DeviceCertificate] = []
    try:
        certificates = certificates_of(iot, thing)
    except (BotoCoreError, ClientError) as error:
        errors.append(f"its certificates cannot be read: {error}")
    return DeviceRegistration(
        registered=True,
        thing_type=described.get("thingTypeName", ""),
        thing_attributes=dict(sorted(described.get("attributes", {}).items())),
        thing_groups=groups,
        certificates=certificates,
        errors=errors,
    )


def certificates_of(iot: "IoTClient", thing: str) -> list[DeviceCertificate]:
    """Return the certificates of a thing. Raises botocore's errors."""
    pages = iot.get_paginator("list_thing_principals").paginate(thingName=thing)
    principals = [principal for page in pages for principal in page["principals"]]
    return [_certificate(iot, one.rpartition("/")[2]) for one in principals if _CERTIFICATE in one]


def _certificate(iot: "IoTClient", identity: str) -> DeviceCertificate:
    found: Any = iot.describe_certificate(certificateId=identity)["certificateDescription"]
    until = found.get("validity", {}).get("notAfter")
    if until is None and found.get("certificatePem"):  # the embedded cloud returns no validity
        until = _EXPIRY(found["certificatePem"])
    return DeviceCertificate(
        id=identity,
        status=found.get("status", ""),
        expires_at=round(until.timestamp() * 1000) if until else None,
    )


def _code(error: BotoCoreError | ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
