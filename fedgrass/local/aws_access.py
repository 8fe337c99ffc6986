"""AWS for a standalone core, with the developer's own credentials: only if the developer asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import boto3
from botocore.exceptions import BotoCoreError

from fedgrass.local.core_errors import NoCloudError
from fedgrass.local.standalone_core import AwsAccess

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LIFE: Final = timedelta(hours=1)
"""Boto3 does not tell when credentials end; SDKs ask again before they think that they do."""


def own_access() -> AwsAccess:
    """What boto3 finds on this machine: environment, profile, SSO. Raises NoCloudError if that is nothing."""
    session = boto3.Session()

    def credentials() -> Mapping[str, str]:
        try:
            found = session.get_credentials()
            frozen = found.get_frozen_credentials() if found else None
        except BotoCoreError as exc:
            raise NoCloudError(str(exc)) from exc
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            message = "boto3 finds no AWS credentials on this machine: `aws configure`, or set AWS_PROFILE"
            raise NoCloudError(message)
        return {
            "AccessKeyId": frozen.access_key,
            "SecretAccessKey": frozen.secret_key,
            "Token": frozen.token or "",
            "Expiration": (datetime.now(UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def s3_client() -> S3Client:
        return session.client("s3")

    credentials()
    return AwsAccess(credentials, s3_client)
