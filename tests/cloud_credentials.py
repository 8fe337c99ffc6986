"""Credentials of the embedded cloud: a device's temporary ones, and the account owner's for a process."""

import pytest

from fedgrass.local.aws.embedded_cloud import ACCOUNT, EmbeddedCloud


def temporary_credentials(cloud: EmbeddedCloud) -> dict[str, str]:
    """Return credentials that the embedded cloud has issued, in the form of the token exchange service."""
    role = f"arn:aws:iam::{ACCOUNT}:role/device"
    issued = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="device")["Credentials"]
    return {
        "AccessKeyId": issued["AccessKeyId"],
        "SecretAccessKey": issued["SecretAccessKey"],
        "Token": issued["SessionToken"],
        "Expiration": issued["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def act_as_owner(monkeypatch: pytest.MonkeyPatch, cloud: EmbeddedCloud) -> None:
    """Let AWS SDKs in this process and its children act as the owner of the embedded cloud's account."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, cloud.environment()[name])
