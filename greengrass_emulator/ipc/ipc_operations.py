"""The IPC operations that concern the calling component itself: configuration, state, tokens, secrets.

GetSecretValue is served on a real core by the Secret Manager component of the classic nucleus.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Protocol

from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.ipc.ipc_model import (
    FailedUpdateConditionCheckError,
    GetConfigurationRequest,
    GetSecretValueRequest,
    InvalidArgumentsError,
    InvalidTokenError,
    ResourceNotFoundError,
    ServiceError,
    UnauthorizedError,
    UpdateConfigurationRequest,
    UpdateStateRequest,
    ValidateAuthorizationTokenRequest,
    parse,
)
from greengrass_emulator.ipc.ipc_stream import Call, Operation
from greengrass_emulator.lifecycle.configuration_tree import (
    Configuration,
    KeyPath,
    MergeError,
    StaleUpdateError,
)
from greengrass_emulator.recipe.access_control import SECRETS, is_allowed

_ACCESS_CONTROL = "accessControl"
_STREAM_MANAGER = "aws.greengrass.StreamManager"

_SECRET_VERSION = "00000000-0000-4000-8000-000000000001"  # noqa: S105 - a number, not a secret
_SECRET_STAGE = "AWSCURRENT"  # noqa: S105 - a label, not a secret


class Components(Protocol):
    """The part of the core that the operations need."""

    def configuration_of(self, component: str) -> Configuration | None:
        """Return the configuration of a deployed component, or None for an unknown component."""

    def report_state(self, component: str, state: str) -> None:
        """Take the report of a component that it is RUNNING or ERRORED."""

    def is_component_token(self, token: str) -> bool:
        """Return whether the token belongs to a deployed component."""


def authorize(components: Components, call: Call, service: str, resource: str) -> None:
    """Raise UnauthorizedError unless the caller's accessControl allows the operation on `resource`."""
    configuration = components.configuration_of(call.component)
    access_control = configuration.tree.get(_ACCESS_CONTROL) if configuration else None
    operation = f"aws.greengrass#{call.operation}"
    if not is_allowed(access_control, service, operation, resource):
        message = (
            f"{call.component} is not authorized to perform {service}: {operation} on {resource}:"
            f" its {_ACCESS_CONTROL} has no policy that allows it"
        )
        raise UnauthorizedError(message)


class ComponentOperations:
    """The operations on a component's own configuration, state and token."""

    def __init__(self, components: Components, profile: Profile) -> None:
        self._components = components
        self._profile = profile

    def by_name(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {
            "GetConfiguration": self._get_configuration,
            "UpdateConfiguration": self._update_configuration,
            "SubscribeToConfigurationUpdate": self._subscribe_to_configuration_update,
            "UpdateState": self._update_state,
            "ValidateAuthorizationToken": self._validate_authorization_token,
        }

    def _configuration(self, component: str) -> Configuration:
        configuration = self._components.configuration_of(component)
        if configuration is None:
            message = f"no component {component} is deployed here"
            raise ResourceNotFoundError(message)
        return configuration

    def _read(self, component: str, path: Sequence[str]) -> object:
        try:
            return self._configuration(component).read(path)
        except KeyError as error:
            message = f"{component} has no configuration {'/'.join(path)}: no key {error}"
            raise ResourceNotFoundError(message) from error

    async def _get_configuration(self, call: Call) -> Mapping[str, object]:
        request = parse(GetConfigurationRequest, call.body)
        component, path = request.component_name or call.component, request.key_path or []
        value = self._read(component, path)
        # A leaf is wrapped in its name: the response's `value` is a map in the IPC model.
        return {
            "componentName": component,
            "value": value if isinstance(value, Mapping) else {path[-1]: value},
        }

    async def _update_configuration(self, call: Call) -> Mapping[str, object]:
        request = parse(UpdateConfigurationRequest, call.body)
        path, value = request.key_path or [], request.value_to_merge
        if not path and not isinstance(value, Mapping):
            message = "valueToMerge must be a map where no keyPath is given"
            raise InvalidArgumentsError(message)
        if path[:1] == [_ACCESS_CONTROL] or (
            not path and isinstance(value, Mapping) and _ACCESS_CONTROL in value
        ):
            message = f"Config update is not allowed for following field [{_ACCESS_CONTROL}]"
            raise InvalidArgumentsError(message)
        try:
            self._configuration(call.component).merge(path, value, request.timestamp)
        except StaleUpdateError as error:
            raise FailedUpdateConditionCheckError(str(error)) from error
        except MergeError as error:
            raise ServiceError(str(error)) from error
        return {}

    async def _subscribe_to_configuration_update(self, call: Call) -> Mapping[str, object]:
        request = parse(GetConfigurationRequest, call.body)
        component, path = request.component_name or call.component, request.key_path or []
        if self._profile.largest_configuration_value is not None:
            self._read(component, path)  # raises for a missing row, where the subscription would be stored

        def send_event(changed: KeyPath) -> None:
            event = {"componentName": component, "keyPath": list(changed)}
            call.stream.send_event("ConfigurationUpdateEvents", {"configurationUpdateEvent": event})

        call.stream.keep_open(self._configuration(component).listen(path, send_event))
        return {}

    async def _update_state(self, call: Call) -> Mapping[str, object]:
        state = parse(UpdateStateRequest, call.body).state
        if state == "RUNNING" or self._profile.restarts_on_errored:
            self._components.report_state(call.component, state)
        return {}

    async def _validate_authorization_token(self, call: Call) -> Mapping[str, object]:
        if call.component != _STREAM_MANAGER:
            message = f"only {_STREAM_MANAGER} may validate a token, not {call.component}"
            raise UnauthorizedError(message)
        # Both nuclei respond with an error to a wrong token, never with isValid: false.
        if not self._components.is_component_token(parse(ValidateAuthorizationTokenRequest, call.body).token):
            message = "the token belongs to no component"
            raise InvalidTokenError(message)
        return {"isValid": True}


class SecretOperations:
    """GetSecretValue for the secrets that the core was started with; each has one version."""

    def __init__(self, components: Components, secrets: Mapping[str, str | bytes]) -> None:
        self._components = components
        self._secrets = secrets

    def by_name(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {"GetSecretValue": self._get_secret_value}

    async def _get_secret_value(self, call: Call) -> Mapping[str, object]:
        request = parse(GetSecretValueRequest, call.body)
        authorize(self._components, call, SECRETS, request.secret_id)
        if request.version_id is not None and request.version_stage is not None:
            message = "versionId and versionStage cannot both be given"
            raise InvalidArgumentsError(message)
        is_current = request.version_id in {None, _SECRET_VERSION} and request.version_stage in {
            None,
            _SECRET_STAGE,
        }
        if request.secret_id not in self._secrets or not is_current:
            wanted = request.version_id or request.version_stage or _SECRET_STAGE
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
            "versionId": _SECRET_VERSION,
            "versionStage": [_SECRET_STAGE],
            "secretValue": value,
        }
