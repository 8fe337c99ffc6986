"""The IPC operation GetSecretValue, which the classic nucleus's Secret Manager component serves."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

from fedgrass.local.access_control import SECRETS
from fedgrass.local.ipc_errors import InvalidArgumentsError, ResourceNotFoundError
from fedgrass.local.ipc_operations import Components, authorize
from fedgrass.local.ipc_requests import GetSecretValueRequest, parse
from fedgrass.local.ipc_stream import Call, Operation

VERSION: Final = "00000000-0000-4000-8000-000000000001"
STAGE: Final = "AWSCURRENT"


class SecretOperations:
    """Hands out the secrets that the core was started with: each has one version, the current one."""

    def __init__(self, components: Components, secrets: Mapping[str, str | bytes]) -> None:
        self._components = components
        self._secrets = secrets

    def by_name(self) -> Mapping[str, Operation]:
        """The operations, by the names that requests call them by."""
        return {"GetSecretValue": self._get_secret_value}

    async def _get_secret_value(self, call: Call) -> Mapping[str, object]:
        request = parse(GetSecretValueRequest, call.body)
        authorize(self._components, call, SECRETS, request.secret_id)
        if request.version_id is not None and request.version_stage is not None:
            message = "versionId and versionStage cannot both be given"
            raise InvalidArgumentsError(message)
        is_current = request.version_id in {None, VERSION} and request.version_stage in {None, STAGE}
        if request.secret_id not in self._secrets or not is_current:
            wanted = request.version_id or request.version_stage or STAGE
            message = f"secret {request.secret_id} in version {wanted} is not on this core"
            raise ResourceNotFoundError(message)
        secret = self._secrets[request.secret_id]
        value = (
            {"secretString": secret}
            if isinstance(secret, str)
            else {"secretBinary": base64.b64encode(secret).decode()}
        )
        return {
            "secretId": request.secret_id,
            "versionId": VERSION,
            "versionStage": [STAGE],
            "secretValue": value,
        }
