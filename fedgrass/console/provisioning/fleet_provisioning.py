"""``fedgrass fleet``: provision things with certificates and their core devices' files, or remove them."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.greengrass_cloud import Account, GreengrassCloud
from fedgrass.console.provisioning.core_installation import (
    CERTIFICATE,
    FILES,
    KEY,
    RECORD,
    CoreDevice,
    core_policy,
    policy_name,
    write_device_files,
    write_private,
)
from fedgrass.console.provisioning.thing_registry import ThingRegistry
from fedgrass.console.results import reported_steps
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name

_NUCLEUS = "aws.greengrass.Nucleus"


class Devices(Struct, frozen=True, kw_only=True):
    """The devices to provision, and how."""

    things: Sequence[str]
    group: str
    folder: Path
    role_alias: str = ""  # default: that of the stack, or fedgrass-<fleet>
    nucleus: str = "classic"
    nucleus_version: str = ""  # default: the latest


class FleetProvisioning:
    """Provisions and removes devices of one fleet.

    Args:
        registry: the registry of AWS IoT.
        cloud: Greengrass, which lists the versions of the nucleus.
        account: the account of both.
        stack: the outputs of the fleet's stack.
    """

    def __init__(
        self, registry: ThingRegistry, cloud: GreengrassCloud, account: Account, stack: Mapping[str, str]
    ) -> None:
        self._registry = registry
        self._cloud = cloud
        self._account = account
        self._stack = stack

    def provision(self, devices: Devices) -> Iterator[str]:
        """Provision every device; yield a line per step. Completed steps are not repeated.

        Raises:
            SettingsError: a name is invalid, or a thing has a certificate whose key is not in the folder.
        """
        for thing in devices.things:
            checked_name("thing", thing)
        # Check everything before anything is created.
        common = self._common(devices)
        for thing in devices.things:
            self._policy(thing, common.role_alias)
            self._check_certificates(thing, devices.folder / thing)
        if self._registry.ensure_role_alias(common.role_alias, self._stack["DeviceRoleArn"]):
            yield f"created the role alias {common.role_alias}"
        if self._registry.ensure_group(devices.group):
            yield f"created the thing group {devices.group}"
        for thing in devices.things:
            yield self._provision(thing, devices, common)

    def remove(self, things: Sequence[str], folder: Path | None) -> Iterator[str]:
        """Remove things with their certificates, policies and files; yield a line per thing."""
        for thing in things:
            checked_name("thing", thing)
        for thing in things:
            known = self._registry.has_thing(thing)
            for certificate in self._registry.certificates(thing):
                self._registry.delete_certificate(certificate, thing)
            record = _record(folder / thing) if folder else ""
            if record and self._registry.certificate_text(record):
                self._registry.delete_certificate(record)
            self._registry.delete_thing(thing)
            self._registry.delete_policy(policy_name(self._stack["Fleet"], thing))
            if folder:
                _delete_files(folder / thing)
            yield f"removed {thing}" if known else f"thing {thing} does not exist"

    def describe(self, thing: str) -> str:
        """Return a line with what ``remove`` would delete of a thing."""
        if not self._registry.has_thing(checked_name("thing", thing)):
            return f"thing {thing} does not exist"
        certificates = ", ".join(self._registry.certificates(thing)) or "no certificate"
        return f"would delete {thing}, {certificates}, {policy_name(self._stack['Fleet'], thing)}"

    def _common(self, devices: Devices) -> CoreDevice:
        """Return the values that all devices share; the thing's name is empty."""
        data, credentials = self._registry.endpoints()
        version = devices.nucleus_version
        if devices.nucleus == "classic" and not version:
            version = next(iter(self._cloud.versions(_NUCLEUS)), "")
        if devices.nucleus == "classic" and not version:
            message = f"{_NUCLEUS} has no version in {self._account.region}: choose one by --nucleus-version"
            raise SettingsError(message)
        fallback = f"fedgrass-{self._stack['Fleet']}"
        return CoreDevice(
            thing="",
            region=self._account.region,
            data_endpoint=data,
            credentials_endpoint=credentials,
            role_alias=devices.role_alias or self._stack.get("DeviceRoleAlias") or fallback,
            nucleus=devices.nucleus,
            nucleus_version=version,
        )

    def _check_certificates(self, thing: str, folder: Path) -> None:
        recorded = _record(folder)
        strangers = [arn for arn in self._registry.certificates(thing) if arn != recorded]
        if strangers:
            message = (
                f"the thing {thing!r} has a certificate whose key is not in {folder} ({strangers[0]}): choose"
                " the --out folder of the run that created it, or remove the thing by"
                f" `fedgrass fleet remove --things {thing}`"
            )
            raise SettingsError(message)

    def _provision(self, thing: str, devices: Devices, common: CoreDevice) -> str:
        folder = devices.folder / thing
        policy = policy_name(self._stack["Fleet"], thing)
        certificate = self._certificate(thing, folder)
        self._registry.ensure_policy(policy, self._policy(thing, common.role_alias))
        self._registry.ensure_thing(thing, devices.group)
        self._registry.attach(thing, certificate, [self._stack["DevicePolicyName"], policy])
        values = {name: getattr(common, name) for name in common.__struct_fields__ if name != "thing"}
        write_device_files(folder, CoreDevice(thing=thing, **values))
        return f"{thing} is ready: copy {folder} to the device and run `sudo sh install.sh` in it"

    def _policy(self, thing: str, role_alias: str) -> dict[str, Any]:
        account = self._account
        return core_policy(
            thing, role_alias, partition=account.partition, region=account.region, account=account.number
        )

    def _certificate(self, thing: str, folder: Path) -> str:
        """Return the ARN of the device's certificate, from an earlier run or new."""
        if known := _record(folder):
            if (folder / KEY).is_file() and (text := self._registry.certificate_text(known)):
                write_private(folder / CERTIFICATE, text.encode())
                return known
            if known in self._registry.certificates(thing):
                self._registry.delete_certificate(known, thing)
        arn, text = self._registry.sign(_signing_request(thing, folder / KEY))
        try:
            # The record first: after an interruption the next run finds the certificate by it.
            write_private(folder / RECORD, json.dumps({"certificateArn": arn, "thing": thing}).encode())
            write_private(folder / CERTIFICATE, text.encode())
        except BaseException:
            self._registry.delete_certificate(arn)
            raise
        return arn


def _signing_request(thing: str, key_file: Path) -> str:
    """Return a certificate signing request for the key in a file, which is generated if it does not exist."""
    if not key_file.exists():
        # The same type and format as keys that AWS generates: every nucleus reads it.
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        write_private(key_file, private)
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        message = f"{key_file} is not a private key: {error}; delete it to have a new one generated"
        raise SettingsError(message) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        message = f"{key_file} is not an RSA key: delete it to have a new one generated"
        raise SettingsError(message)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, thing[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _record(folder: Path) -> str:
    """Return the ARN of the certificate that an earlier run recorded in a folder; empty if there is none."""
    try:
        found = json.loads((folder / RECORD).read_bytes())
    except FileNotFoundError:
        return ""
    except (ValueError, OSError) as error:
        message = f"{folder / RECORD} cannot be read: {error}"
        raise SettingsError(message) from error
    return str(found.get("certificateArn", "")) if isinstance(found, dict) else ""


def _delete_files(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def expiry_of(certificate: str) -> datetime:
    """Return when a certificate in PEM form expires."""
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


@contextmanager
def _file_errors() -> Iterator[None]:
    """Raise an OSError of a file as SettingsError, with the file's name and the reason."""
    try:
        yield
    except OSError as error:
        if not error.filename:
            raise
        message = f"{error.filename} cannot be written: {error.strerror}"
        raise SettingsError(message) from error


@stack.refusals()
@_file_errors()
def provision_command(  # noqa: PLR0913 - the options of the command
    *,
    stack_name: str,
    account: str,
    things: Sequence[str],
    group: str,
    folder: Path,
    nucleus: str,
    nucleus_version: str,
    role_alias: str,
    output: str,
) -> None:
    """Provision devices, and print a line per step."""
    devices = Devices(
        things=things,
        group=group,
        folder=folder,
        role_alias=role_alias,
        nucleus=nucleus,
        nucleus_version=nucleus_version,
    )
    with reported_steps(output):
        for line in _provisioning(stack_name, account).provision(devices):
            say(line)


@stack.refusals()
@_file_errors()
def remove_command(  # noqa: PLR0913 - the options of the command
    *,
    stack_name: str,
    account: str,
    things: Sequence[str],
    folder: Path | None,
    confirmed: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Remove devices after confirmation, or print what would be deleted."""
    provisioning = _provisioning(stack_name, account)
    with reported_steps(output, dry_run=dry_run):
        if not dry_run and not confirmed:
            names = ", ".join(things)
            _confirm(f"Delete {names} with certificates and policies? They can no longer connect. [y/N]")
        for line in map(provisioning.describe, things) if dry_run else provisioning.remove(things, folder):
            say(line)


def _provisioning(stack_name: str, expected_account: str) -> FleetProvisioning:
    account = Account(stack.client, expected_account)
    registry, cloud = ThingRegistry(stack.client, account), GreengrassCloud(stack.client, account)
    return FleetProvisioning(registry, cloud, account, stack.outputs(stack_name))


def _confirm(question: str) -> None:
    """Ask the operator. Raises SettingsError without a terminal, or if the answer is not yes."""
    if not sys.stdin.isatty():
        message = "no terminal to ask for confirmation: add --yes, or list what would be deleted by --dry-run"
        raise SettingsError(message)
    if prompt(question).lower() not in {"y", "yes"}:
        message = "nothing was deleted"
        raise SettingsError(message)
