"""The registry of AWS IoT: things, certificates, policies, groups and role aliases.

All methods are idempotent, so provisioning can be repeated after a failure.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from fedgrass.console.aws_clients import Clients
from fedgrass.console.greengrass_cloud import Account, code_of
from fedgrass.federation.errors import SettingsError

_CREDENTIAL_SECONDS = 3600
PATIENCE_SECONDS = 60.0  # detaching is eventually consistent, and an attached resource cannot be deleted
PAUSE_SECONDS = 1.0


class ThingRegistry:
    """Things, certificates, policies, groups and role aliases of one account and region."""

    def __init__(self, clients: Clients, account: Account) -> None:
        self._iot = clients("iot")
        self._greengrass = clients("greengrassv2")
        self._account = account

    def endpoints(self) -> tuple[str, str]:
        """Return the host names of IoT Core and of the credentials provider."""
        data, credentials = (
            self._iot.describe_endpoint(endpointType=f"iot:{kind}")["endpointAddress"]
            for kind in ("Data-ATS", "CredentialProvider")
        )
        return data, credentials

    def ensure_group(self, name: str) -> bool:
        """Create a thing group if it does not exist; return whether it was created."""
        # Checked first, since creating an existing group succeeds too.
        if not _is_absent(lambda: self._iot.describe_thing_group(thingGroupName=name)):
            return False
        self._iot.create_thing_group(thingGroupName=name)
        return True

    def ensure_role_alias(self, name: str, role_arn: str) -> bool:
        """Create the role alias if it does not exist; return whether it was created.

        Raises:
            SettingsError: the alias exists for another role.
        """
        try:
            found = self._iot.describe_role_alias(roleAlias=name)["roleAliasDescription"]
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            self._iot.create_role_alias(
                roleAlias=name, roleArn=role_arn, credentialDurationSeconds=_CREDENTIAL_SECONDS
            )
            return True
        if found["roleArn"] != role_arn:
            message = (
                f"the role alias {name!r} is for {found['roleArn']}, but the stack's device role is"
                f" {role_arn}: choose another one by --role-alias"
            )
            raise SettingsError(message)
        return False

    def ensure_policy(self, name: str, document: Mapping[str, Any]) -> None:
        """Create an IoT policy, or update its document."""
        text = json.dumps(document)
        if _created(lambda: self._iot.create_policy(policyName=name, policyDocument=text)):
            return
        found = self._iot.get_policy(policyName=name)
        if json.loads(found["policyDocument"]) == document:
            return
        self._iot.create_policy_version(policyName=name, policyDocument=text, setAsDefault=True)
        # A policy has at most five versions, and only a policy with a single version can be deleted.
        self._iot.delete_policy_version(policyName=name, policyVersionId=found["defaultVersionId"])

    def ensure_thing(self, name: str, group: str) -> None:
        """Create a thing if it does not exist, and add it to the group."""
        _created(lambda: self._iot.create_thing(thingName=name))
        self._iot.add_thing_to_thing_group(thingName=name, thingGroupName=group)

    def certificates(self, thing: str) -> list[str]:
        """Return the ARNs of a thing's certificates; empty if the thing does not exist."""
        try:
            found = self._iot.list_thing_principals(thingName=thing)["principals"]
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return []
            raise
        return [arn for arn in found if ":cert/" in arn]

    def certificate_text(self, certificate: str) -> str:
        """Return a certificate in PEM format; empty if it does not exist or was revoked."""
        try:
            described = self._iot.describe_certificate(certificateId=_id(certificate))
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return ""
            raise
        found = described["certificateDescription"]
        return str(found["certificatePem"]) if found["status"] in {"ACTIVE", "INACTIVE"} else ""

    def sign(self, request: str) -> tuple[str, str]:
        """Return (ARN, PEM) of a new, inactive certificate for a signing request."""
        made = self._iot.create_certificate_from_csr(certificateSigningRequest=request, setAsActive=False)
        return made["certificateArn"], made["certificatePem"]

    def attach(self, thing: str, certificate: str, policies: list[str]) -> None:
        """Attach policies and thing to a certificate, and only then activate it."""
        for policy in policies:
            self._iot.attach_policy(policyName=policy, target=certificate)
        if certificate not in self.certificates(thing):
            # Exclusive, so that policy variables also resolve for further connections of the nucleus.
            self._iot.attach_thing_principal(
                thingName=thing, principal=certificate, thingPrincipalType="EXCLUSIVE_THING"
            )
        self._iot.update_certificate(certificateId=_id(certificate), newStatus="ACTIVE")

    def delete_certificate(self, certificate: str, thing: str = "") -> None:
        """Detach a certificate from its thing and its policies, and delete it."""
        identity = _id(certificate)
        if thing:
            _is_absent(lambda: self._iot.detach_thing_principal(thingName=thing, principal=certificate))
        attached = self._iot.list_attached_policies(target=certificate)["policies"]
        for policy in attached:
            detach = partial(self._iot.detach_policy, policyName=policy["policyName"], target=certificate)
            _is_absent(detach)
        _is_absent(lambda: self._iot.update_certificate(certificateId=identity, newStatus="INACTIVE"))
        _retry_while_attached(lambda: self._iot.delete_certificate(certificateId=identity))

    def delete_thing(self, name: str) -> None:
        """Delete a thing and its Greengrass core device, if they exist."""
        _is_absent(lambda: self._greengrass.delete_core_device(coreDeviceThingName=name))
        _retry_while_attached(lambda: self._iot.delete_thing(thingName=name))

    def delete_policy(self, name: str) -> None:
        """Delete a policy, if it exists."""
        _retry_while_attached(lambda: self._iot.delete_policy(policyName=name))

    def has_thing(self, name: str) -> bool:
        """Return whether a thing exists."""
        return not _is_absent(lambda: self._iot.describe_thing(thingName=name))


def _id(certificate: str) -> str:
    return certificate.rpartition("/")[2]


def _created(call: Callable[[], object]) -> bool:
    """Run ``call``; return False if the resource exists already."""
    try:
        call()
    except ClientError as error:
        if code_of(error) != "ResourceAlreadyExistsException":
            raise
        return False
    return True


def _is_absent(call: Callable[[], object]) -> bool:
    """Run ``call``; return True if the resource does not exist (any more)."""
    try:
        call()
    except ClientError as error:
        if code_of(error) != "ResourceNotFoundException":
            raise
        return True
    return False


def _retry_while_attached(call: Callable[[], object]) -> None:
    """Run ``call``, and retry while AWS refuses because something is still attached."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _is_absent(call)
        except ClientError as error:
            attached = code_of(error) in {"DeleteConflictException", "InvalidRequestException"}
            if not attached or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return
