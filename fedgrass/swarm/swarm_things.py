"""The things of a swarm: created with a certificate each, and removed with everything that belongs to them.

Keys and certificates are made here (P-256, self-signed) and registered without a certificate authority, as
https://docs.aws.amazon.com/iot/latest/developerguide/manual-cert-registration.html describes: four requests
per thing, and no key that the cloud would have to generate. On AWS the things are in a thing group of the
swarm's own name, by which an operator finds them should this process be killed.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedgrass.console.aws_clients import Clients
from fedgrass.console.provisioning.core_installation import CERTIFICATE, KEY
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.swarm.swarm_errors import SwarmError, SwarmOptionError
from fedgrass.swarm.swarm_spec import Identity

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

_AT_ONCE: Final = 4  # requests; AWS allows ten of a kind per second
_VALID: Final = timedelta(days=2)
_TOLD_EVERY: Final = 100  # things


class SwarmThings:
    """Creates the things of one swarm, and removes exactly these.

    Args:
        clients: returns the boto3 client of a service.
        swarm: name of the swarm: the beginning of its things' names, and the name of their thing group.
        policy: name of the stack's policy of devices.
        folder: for certificates and keys.
        grouped: whether to make the thing group.
    """

    def __init__(self, clients: Clients, swarm: str, policy: str, folder: Path, *, grouped: bool) -> None:
        self._iot: IoTClient = clients("iot")
        self._swarm, self._policy, self._folder, self._grouped = swarm, policy, folder, grouped
        self._made: dict[str, str] = {}  # ARN of the certificate by thing; empty: it has none yet
        self._has_group = False

    def create(self, count: int, report: Callable[[str], None]) -> list[Identity]:
        """Create ``count`` things.

        Raises:
            SwarmError: AWS refused; ``remove`` removes what was created until then.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        width = max(5, len(str(count)))
        names = [f"{self._swarm}-{number:0{width}}" for number in range(1, count + 1)]
        with self._refusals("created"):
            if self._grouped:
                self._has_group = True
                self._iot.create_thing_group(thingGroupName=self._swarm)
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="things") as pool:
                made = []
                try:
                    for identity in pool.map(self._create, names, range(count)):
                        made.append(identity)
                        if len(made) % _TOLD_EVERY == 0 and len(made) < count:
                            report(f"{len(made)} of {count} things created")
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        return made

    def remove(self, report: Callable[[str], None]) -> None:
        """Remove every thing that was created, with its certificate, and the group; report what remains."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="things") as pool:
            remaining = [reason for reason in pool.map(self._remove, list(self._made)) if reason]
        if self._has_group:
            try:
                self._iot.delete_thing_group(thingGroupName=self._swarm)
            except (ClientError, BotoCoreError) as error:
                remaining.append(f"thing group {self._swarm}: {error}")
        if remaining:
            report(f"{len(remaining)} resources of {self._swarm} remain, such as {remaining[0]}")

    def _create(self, name: str, mark: int) -> Identity:
        self._made[name] = ""
        certificate, key = _self_signed(name)
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._iot.create_thing(thingName=name)
        arn = self._iot.register_certificate_without_ca(certificatePem=certificate, status="ACTIVE")[
            "certificateArn"
        ]
        self._made[name] = arn
        self._iot.attach_policy(policyName=self._policy, target=arn)
        self._iot.attach_thing_principal(thingName=name, principal=arn)
        if self._grouped:
            self._iot.add_thing_to_thing_group(thingName=name, thingGroupName=self._swarm)
        files[0].write_text(certificate, encoding="ascii")
        files[1].touch(mode=0o600)
        files[1].write_bytes(key)
        return Identity(thing=name, certificate=str(files[0]), private_key=str(files[1]), mark=mark)

    def _remove(self, name: str) -> str:
        """Remove a thing; return why it remains, empty if it does not."""
        arn, iot = self._made[name], self._iot
        try:
            if arn:
                with contextlib.suppress(iot.exceptions.ResourceNotFoundException):
                    iot.detach_thing_principal(thingName=name, principal=arn)
                identity = arn.rpartition("/")[2]
                iot.update_certificate(certificateId=identity, newStatus="INACTIVE")
                with contextlib.suppress(iot.exceptions.ResourceNotFoundException):
                    iot.detach_policy(policyName=self._policy, target=arn)
                iot.delete_certificate(certificateId=identity, forceDelete=True)
            iot.delete_thing(thingName=name)
        except (ClientError, BotoCoreError) as error:
            return f"{name}: {error}"
        return ""

    @contextlib.contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            message = f"the things of {self._swarm} could not be {what}: {error}"
            raise SwarmError(message) from error
        except OSError as error:
            message = f"{error.filename} cannot be written: {error.strerror}"
            raise SwarmOptionError(message) from error


def provisioned_things(folder: Path, count: int) -> list[Identity]:
    """Return the first ``count`` things of a folder that ``fedgrass fleet provision --out`` has written.

    Raises:
        SwarmOptionError: the folder cannot be read, or has fewer things.
    """
    try:
        found = sorted(path for path in folder.iterdir() if (path / CERTIFICATE).is_file())
    except OSError as error:
        message = f"--things {folder} cannot be read: {error.strerror}; `fedgrass fleet provision` writes it"
        raise SwarmOptionError(message) from error
    if len(found) < count:
        message = (
            f"--things {folder} has {len(found)} things with a {CERTIFICATE}, --devices is {count}: provision"
            " more by `fedgrass fleet provision`, or choose fewer"
        )
        raise SwarmOptionError(message)
    return list(_identities(found[:count]))


def _identities(folders: Iterable[Path]) -> Iterator[Identity]:
    for mark, folder in enumerate(folders):
        yield Identity(
            thing=checked_name("thing", folder.name),
            certificate=str(folder / CERTIFICATE),
            private_key=str(folder / KEY),
            mark=mark,
        )


def _self_signed(name: str) -> tuple[str, bytes]:
    """Return a certificate (PEM) for a new key, and the key (PEM)."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _VALID)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private


def names_of(things: Sequence[Identity]) -> list[str]:
    """Return the names of things."""
    return [identity.thing for identity in things]
