"""The differences between the two Greengrass nuclei that a component can observe.

The figures were measured on Nucleus Lite 2.6.0, or read in the source of the classic (Java) nucleus.
"""

from dataclasses import dataclass

from greengrass_emulator.emulator_errors import UnknownProfileError

_KIB = 1024
_MQTT_MESSAGE_LIMIT = 128 * _KIB
"""The largest message of AWS IoT Core, in bytes."""


@dataclass(frozen=True)
class Profile:
    """The limits and behaviour of one nucleus. Sizes are bytes of payload."""

    name: str
    nucleus_version: str
    component_user: str
    """The user that components run as on a device. Here they run as the developer, under that name."""
    nucleus_component: str
    """The component name under which any component can read the configuration of the nucleus."""
    exchange_port_key: str
    """The key of the token exchange service's configuration that has its port."""
    needs_runtime_field: bool
    """Whether a manifest fits only if its platform has `runtime`, as `*` or this nucleus's own."""
    runtime: str | None
    """The nucleus's own value of a platform's `runtime` field."""
    yaml_scalars_are_strings: bool
    """Whether `3` and `true` in a YAML recipe that is deployed locally reach the component as strings."""
    unpacks_local_archives: bool
    """Whether a local deployment unpacks the archives among a component's artifacts."""
    reads_every_attribute: bool
    """Whether any attribute of a platform may exclude a manifest.

    Otherwise only runtime, os and architecture may.
    """
    quotes_setenv: bool
    """Whether a value of Setenv may contain spaces."""
    binds_hard_dependencies: bool
    """Whether a component stays stopped after its HARD dependency died (systemd's BindsTo).

    Otherwise it is started again.
    """
    rolls_back: bool
    """Whether a failed deployment restores the previous components."""
    configuration_restart_seconds: float | None
    """The delay after which a component is restarted whose configuration a deployment has changed.

    None: at once, and only if its run step reads what changed.
    """
    largest_configuration_value: int | None
    """Bytes of JSON of one value in the configuration, where each value is a row of a database.

    There a map never replaces a value, nor a value a map, and an update older than the row is ignored. None:
    the configuration is one tree, in which anything replaces anything.
    """
    job_document_parts: int | None
    """How many keys and values the document of a cloud deployment may have; None: no limit."""
    local_message_parts: int | None
    """How many keys and values the event of a local JSON message may have.

    A larger one is lost, and the subscription with it. None: no limit.
    """
    ipc_packet_limit: int | None
    """The largest packet of a client, in bytes after its prelude; a larger one closes the connection.

    None: 24 MiB.
    """
    checks_mqtt_requests: bool
    """Whether topics and qualities of service that IoT Core does not accept are refused.

    Otherwise they are sent, and IoT Core closes the connection.
    """
    reuses_wider_filters: bool
    """Whether a filter that another one of the core covers is not subscribed to at IoT Core.

    IoT Core sends a message once per subscribed filter, and each copy goes to all subscriptions of the core.
    """
    restarts_on_errored: bool
    """Whether a component that reports ERRORED is restarted."""
    names_errors: bool
    """Whether the text of an IPC error is in the field that the SDK reads."""
    inbound_limit: int
    """The largest message from IoT Core; a larger one is dropped silently."""
    outbound_limit: int
    """The largest payload that a component may publish, unless its packet exceeds its limit first."""
    oversize_closes_connection: bool
    """Whether a larger payload closes the component's IPC connection; otherwise it gets a ServiceError."""
    in_flight_messages: int
    """How many QoS 1 messages are sent before IoT Core has acknowledged the first."""
    unacknowledged_messages: int | None
    """Publishing is refused at once when this many QoS 1 messages are unacknowledged; None: no such limit."""
    unacknowledged_bytes: int
    """The same in bytes: on the classic nucleus the size of its spool."""
    spools_offline: bool
    """Whether QoS 1 messages are kept while there is no connection, and the session is resumed afterwards."""
    keeps_retain: bool
    """Whether the retain flag is passed on, in both directions."""
    answers_wrong_token: bool
    """Whether a client with a wrong token gets an answer; otherwise its connection is just closed."""
    reads_classic_lifecycles: bool
    """Whether lifecycle steps may be in any case and include `bootstrap`, `startup` and `recover`."""
    reads_dependencies: bool
    """Whether a recipe variable may refer to a direct dependency."""
    interpolates_configuration: bool
    """Whether `interpolateComponentConfiguration` exists, which replaces variables in configurations."""
    unserved_operations: frozenset[str] = frozenset()
    """IPC operations of the emulator that this nucleus does not have."""


CLASSIC = Profile(
    name="classic",
    nucleus_version="2.14.0",
    component_user="ggc_user",
    nucleus_component="aws.greengrass.Nucleus",
    exchange_port_key="activePort",
    needs_runtime_field=False,
    reads_every_attribute=True,
    quotes_setenv=True,
    binds_hard_dependencies=False,
    rolls_back=True,
    configuration_restart_seconds=None,
    largest_configuration_value=None,
    job_document_parts=None,
    local_message_parts=None,
    ipc_packet_limit=None,
    checks_mqtt_requests=True,
    reuses_wider_filters=True,
    restarts_on_errored=True,
    names_errors=True,
    runtime=None,
    yaml_scalars_are_strings=False,
    unpacks_local_archives=True,
    inbound_limit=_MQTT_MESSAGE_LIMIT,
    outbound_limit=_MQTT_MESSAGE_LIMIT,
    oversize_closes_connection=False,
    in_flight_messages=5,
    unacknowledged_messages=None,
    unacknowledged_bytes=2_500 * _KIB,
    spools_offline=True,
    keeps_retain=True,
    answers_wrong_token=True,
    reads_classic_lifecycles=True,
    reads_dependencies=True,
    interpolates_configuration=True,
)
LITE = Profile(
    name="lite",
    nucleus_version="2.6.0",
    component_user="gg_component",
    nucleus_component="aws.greengrass.NucleusLite",
    exchange_port_key="port",
    needs_runtime_field=True,
    reads_every_attribute=False,
    quotes_setenv=False,
    binds_hard_dependencies=True,
    rolls_back=False,
    configuration_restart_seconds=10.0,
    largest_configuration_value=1024,
    job_document_parts=255,
    local_message_parts=50,
    ipc_packet_limit=10_000,
    checks_mqtt_requests=False,
    reuses_wider_filters=False,
    restarts_on_errored=False,
    names_errors=False,
    runtime="aws_nucleus_lite",
    yaml_scalars_are_strings=True,
    unpacks_local_archives=False,
    inbound_limit=4_980,
    outbound_limit=_MQTT_MESSAGE_LIMIT,  # the packet exceeds its limit from some 7,310 bytes on
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
PROFILES = {profile.name: profile for profile in (CLASSIC, LITE)}


def profile_named(name: str) -> Profile:
    """Return the profile of that name. Raises UnknownProfileError, which lists the valid names."""
    try:
        return PROFILES[name]
    except KeyError:
        message = f"there is no profile {name!r}: choose {' or '.join(PROFILES)}"
        raise UnknownProfileError(message) from None
