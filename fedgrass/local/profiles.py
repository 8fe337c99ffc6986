"""How the two Greengrass nuclei differ where a component can notice it.

The figures were measured on Nucleus Lite 2.6.0, and read in the source of the classic (Java) nucleus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedgrass.local.core_errors import UnknownProfileError

KIB: Final = 1024
MQTT_MESSAGE_LIMIT: Final = 128 * KIB
"""The largest message of AWS IoT Core, in bytes."""


@dataclass(frozen=True)
class Profile:
    """The limits and habits of one nucleus. Sizes are bytes of payload."""

    name: str
    nucleus_version: str
    needs_runtime_field: bool
    """Whether a manifest counts only if its platform has `runtime`, as `*` or this nucleus's own."""
    runtime: str | None
    """The nucleus's own value of a platform's `runtime` field."""
    yaml_scalars_are_strings: bool
    """Whether `3` and `true` in a YAML recipe's default configuration reach the component as strings."""
    inbound_limit: int
    """A larger message from IoT Core is dropped and nobody is told."""
    outbound_limit: int
    """The largest payload that a component may publish."""
    oversize_closes_connection: bool
    """Whether a larger payload costs the component its IPC connection, or only gets a ServiceError."""
    in_flight_messages: int
    """How many QoS 1 messages go out before IoT Core acknowledges the first."""
    unacknowledged_messages: int | None
    """Publishing is refused at once when this many QoS 1 messages are unacknowledged; None: no such limit."""
    unacknowledged_bytes: int
    """The same in bytes: on the classic nucleus this is its spool."""
    spools_offline: bool
    """Whether QoS 1 messages are kept while there is no connection, and the session is resumed after it."""
    keeps_retain: bool
    """Whether the retain flag is passed on, both ways."""
    answers_wrong_token: bool
    """Whether a client with a wrong token is told so, or only finds its connection closed."""
    reads_classic_lifecycles: bool
    """Whether a recipe's steps may be in capitals, and `bootstrap`, `startup` and `recover` among them."""
    reads_dependencies: bool
    """Whether a recipe variable may ask a direct dependency."""
    interpolates_configuration: bool
    """Whether `interpolateComponentConfiguration` exists, which replaces variables in configurations."""
    unserved_operations: frozenset[str] = frozenset()
    """IPC operations of the local core that this nucleus does not have."""


CLASSIC: Final = Profile(
    name="classic",
    nucleus_version="2.14.0",
    needs_runtime_field=False,
    runtime=None,
    yaml_scalars_are_strings=False,
    inbound_limit=MQTT_MESSAGE_LIMIT,
    outbound_limit=MQTT_MESSAGE_LIMIT,
    oversize_closes_connection=False,
    in_flight_messages=5,
    unacknowledged_messages=None,
    unacknowledged_bytes=2_500 * KIB,
    spools_offline=True,
    keeps_retain=True,
    answers_wrong_token=True,
    reads_classic_lifecycles=True,
    reads_dependencies=True,
    interpolates_configuration=True,
)
LITE: Final = Profile(
    name="lite",
    nucleus_version="2.6.0",
    needs_runtime_field=True,
    runtime="aws_nucleus_lite",
    yaml_scalars_are_strings=True,
    inbound_limit=4_980,
    outbound_limit=7_319,
    oversize_closes_connection=True,
    in_flight_messages=10,
    unacknowledged_messages=10,
    unacknowledged_bytes=15_000,
    spools_offline=False,
    keeps_retain=False,
    answers_wrong_token=False,
    reads_classic_lifecycles=False,
    reads_dependencies=False,
    interpolates_configuration=False,
    unserved_operations=frozenset(
        {
            "GetSecretValue",
            "ListComponents",
            "GetComponentDetails",
            "StopComponent",
            "GetLocalDeploymentStatus",
            "ListLocalDeployments",
            "SubscribeToComponentUpdates",
            "DeferComponentUpdate",
        }
    ),
)
PROFILES: Final = {profile.name: profile for profile in (CLASSIC, LITE)}


def profile_named(name: str) -> Profile:
    """The profile of that name. Raises UnknownProfileError, which lists the names there are."""
    try:
        return PROFILES[name]
    except KeyError:
        message = f"no Greengrass profile is called {name!r}: choose {' or '.join(PROFILES)}"
        raise UnknownProfileError(message) from None
