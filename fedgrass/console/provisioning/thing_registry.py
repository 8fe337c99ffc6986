"""AWS IoT's registry, as provisioning uses it. Every method may be called again after half of it was done."""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from fedgrass.console.greengrass_cloud import Account, Clients, code_of
from fedgrass.federation.errors import SettingsError

CREDENTIAL_SECONDS = 3600
PATIENCE_SECONDS = 60.0  # detaching takes AWS a moment, and until then nothing detached can be deleted
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
        """Make a thing group if there is none; return whether it was made."""
        # Asked first: AWS takes the making of a group that is there already for done.
        if not _gone(lambda: self._iot.describe_thing_group(thingGroupName=name)):
            return False
        self._iot.create_thing_group(thingGroupName=name)
        return True

    def ensure_role_alias(self, name: str, role_arn: str) -> bool:
        """Make the role alias if there is none; return whether it was made.

        Raises:
            SettingsError: there is one of that name for another role.
        """
        try:
            found = self._iot.describe_role_alias(roleAlias=name)["roleAliasDescription"]
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            self._iot.create_role_alias(
                roleAlias=name, roleArn=role_arn, credentialDurationSeconds=CREDENTIAL_SECONDS
            )
            return True
        if found["roleArn"] != role_arn:
            message = (
                f"the role alias {name!r} stands for {found['roleArn']}, and the stack's device role is"
                f" {role_arn}: name another one by --role-alias"
            )
            raise SettingsError(message)
        return False

    def ensure_policy(self, name: str, document: Mapping[str, Any]) -> None:
        """Make an IoT policy, or give it this document."""
        text = json.dumps(document)
        if _made(lambda: self._iot.create_policy(policyName=name, policyDocument=text)):
            return
        found = self._iot.get_policy(policyName=name)
        if json.loads(found["policyDocument"]) == document:
            return
        self._iot.create_policy_version(policyName=name, policyDocument=text, setAsDefault=True)
        # AWS keeps five versions at most, and deletes no policy that has more than one.
        self._iot.delete_policy_version(policyName=name, policyVersionId=found["defaultVersionId"])

    def ensure_thing(self, name: str, group: str) -> None:
        """Make a thing if there is none, and put it into the group."""
        _made(lambda: self._iot.create_thing(thingName=name))
        self._iot.add_thing_to_thing_group(thingName=name, thingGroupName=group)

    def certificates(self, thing: str) -> list[str]:
        """Return the ARNs of a thing's certificates; none if there is no such thing."""
        try:
            found = self._iot.list_thing_principals(thingName=thing)["principals"]
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return []
            raise
        return [arn for arn in found if ":cert/" in arn]

    def certificate_text(self, certificate: str) -> str:
        """Return the PEM text of a certificate; empty if it is not there, or revoked."""
        try:
            described = self._iot.describe_certificate(certificateId=_id(certificate))
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return ""
            raise
        found = described["certificateDescription"]
        return str(found["certificatePem"]) if found["status"] in {"ACTIVE", "INACTIVE"} else ""

    def sign(self, request: str) -> tuple[str, str]:
        """Return the ARN and the PEM text of a new certificate for a signing request; it is inactive yet."""
        made = self._iot.create_certificate_from_csr(certificateSigningRequest=request, setAsActive=False)
        return made["certificateArn"], made["certificatePem"]

    def attach(self, thing: str, certificate: str, policies: list[str]) -> None:
        """Give a certificate its policies and its thing, and only then make it active."""
        for policy in policies:
            self._iot.attach_policy(policyName=policy, target=certificate)
        if certificate not in self.certificates(thing):
            # Exclusively: then AWS fills in the thing's name for the nucleus's further connections too.
            self._iot.attach_thing_principal(
                thingName=thing, principal=certificate, thingPrincipalType="EXCLUSIVE_THING"
            )
        self._iot.update_certificate(certificateId=_id(certificate), newStatus="ACTIVE")

    def delete_certificate(self, certificate: str, thing: str = "") -> None:
        """Take a certificate from its thing and its policies, and delete it."""
        identity = _id(certificate)
        if thing:
            _gone(lambda: self._iot.detach_thing_principal(thingName=thing, principal=certificate))
        attached = self._iot.list_attached_policies(target=certificate)["policies"]
        for policy in attached:
            detach = partial(self._iot.detach_policy, policyName=policy["policyName"], target=certificate)
            _gone(detach)
        _gone(lambda: self._iot.update_certificate(certificateId=identity, newStatus="INACTIVE"))
        _patiently(lambda: self._iot.delete_certificate(certificateId=identity))

    def delete_thing(self, name: str) -> None:
        """Delete a thing, and the core device that it is to Greengrass, if they are there."""
        _gone(lambda: self._greengrass.delete_core_device(coreDeviceThingName=name))
        _patiently(lambda: self._iot.delete_thing(thingName=name))

    def delete_policy(self, name: str) -> None:
        """Delete a policy, if it is there."""
        _patiently(lambda: self._iot.delete_policy(policyName=name))

    def has_thing(self, name: str) -> bool:
        """Return whether there is a thing of that name."""
        return not _gone(lambda: self._iot.describe_thing(thingName=name))


def _id(certificate: str) -> str:
    return certificate.rpartition("/")[2]


def _made(call: Callable[[], object]) -> bool:
    """Return whether ``call`` made something; if not, it was there already."""
    try:
        call()
    except ClientError as error:
        if code_of(error) != "ResourceAlreadyExistsException":
            raise
        return False
    return True


def _gone(call: Callable[[], object]) -> bool:
    """Do ``call``; return whether what it is about was not there (any more)."""
    try:
        call()
    except ClientError as error:
        if code_of(error) != "ResourceNotFoundException":
            raise
        return True
    return False


def _patiently(call: Callable[[], object]) -> None:
    """Do ``call``, again and again while AWS says that something is still attached."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _gone(call)
        except ClientError as error:
            attached = code_of(error) in {"DeleteConflictException", "InvalidRequestException"}
            if not attached or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return
