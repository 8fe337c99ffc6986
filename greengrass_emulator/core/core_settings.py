"""The settings of one core device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.faults.fault_state import Faults


class Interruptible(Protocol):
    """A service of the core that a fault can interrupt."""

    async def interrupt(self) -> None:
        """Stop serving, as if the service's process had died."""

    async def resume(self) -> None:
        """Serve again. Raises OSError if that fails."""


@dataclass(frozen=True)
class CoreSettings:
    """The settings of one core device."""

    thing_name: str
    root: Path
    """The core's own folder: work/, logs/, packages/ and its IPC socket."""
    iot_endpoint: str
    iot_port: int
    certificate: Path
    private_key: Path
    root_ca: Path
    region: str
    credentials: Callable[[], Mapping[str, str]]
    """AccessKeyId, SecretAccessKey, Token and Expiration of the device's role.

    May block: it is called in a thread.
    """
    environment: Mapping[str, str]
    """Environment variables of every component, such as AWS_ENDPOINT_URL or STREAM_MANAGER_SERVER_PORT."""
    profile: Profile
    faults: Faults = field(default_factory=Faults)
    """Shared with the core's Stream Manager, so that a fault takes effect in both."""
    stream_manager: Interruptible | None = None
    """The core's Stream Manager, for the fault that interrupts it; None if there is none."""
    secrets: Mapping[str, str | bytes] = field(default_factory=dict)
    """The secrets that GetSecretValue returns, by id."""
    interpolate_component_configuration: bool = False
    """The classic nucleus's setting of that name: `{iot:thingName}` in a configuration is replaced."""
