"""What the processes of a swarm receive: who the devices are, where the cloud is, and how they behave."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

TASK = "swarm"  # the task of every light device, which no other device has
MARK, NOISE = "mark", "noise"  # the arrays of the model


class Habits(Struct, frozen=True, kw_only=True):
    """How the devices of a swarm behave.

    The shares are of all devices, drawn in each round from ``seed``, thing and round.
    """

    work_seconds: float = 0.0  # of a training, between the acceptance and the upload
    slow: float = 0.0  # share that takes ``slow_factor`` times as long
    slow_factor: float = 10.0
    vanish: float = 0.0  # share that disconnects silently after it has accepted
    return_seconds: float = 0.0  # after which a vanished device connects again; 0: never
    doubled: float = 0.0  # share that publishes each of its messages twice
    downloads: bool = False  # whether the devices download the global model
    heartbeat_seconds: float = 60.0
    megabytes: float = 0.1  # of an update
    seed: int = 0


class Identity(Struct, frozen=True, kw_only=True):
    """A thing with the files of its certificate and private key; ``mark`` is its number in the swarm."""

    thing: str
    certificate: str
    private_key: str
    mark: int


class CloudAddress(Struct, frozen=True, kw_only=True):
    """Where devices find their cloud."""

    fleet: str
    endpoint: str  # of IoT Core
    port: int
    root_ca: str  # file; empty: the authorities that the system trusts
    credentials_endpoint: str  # host, or host:port
    role_alias: str
    region: str
    s3_url: str = ""  # of the embedded cloud's S3; empty: Amazon's


class CrowdSpec(Struct, frozen=True, kw_only=True):
    """The part of a swarm that one process runs."""

    swarm: str  # name of the swarm, which heartbeats carry as an attribute
    devices: Sequence[Identity]
    address: CloudAddress
    habits: Habits
    ramp: float  # connections per second
    connect_seconds: float = 30.0


class Sample(Struct, frozen=True, kw_only=True):
    """What a process did since it started; each second it sends one."""

    at: float  # seconds since the epoch, by this machine's clock
    ready: int = 0  # devices that have connected and sent a heartbeat
    connected: int = 0
    received: int = 0  # MQTT messages
    sent: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    failed_transfers: int = 0
    lost: int = 0  # connections that the broker or the network ended
    vanished: int = 0
    returned: int = 0
    repeated: int = 0  # announcements of work that was in progress or done
    lag: float = 0.0  # seconds by which the event loop was late
    error: str = ""  # the last one


class RoundReplies(Struct, frozen=True, kw_only=True):
    """What the devices of a process know of one attempt at a round."""

    round_id: str
    devices: Sequence[str] = ()  # that completed it
    sent: int = 0  # completions, with repeated ones
    counted: int = 0  # devices that got a verdict "counted"
    refused: int = 0  # devices that got another verdict


class CrowdReport(Struct, frozen=True, kw_only=True, tag_field="kind", tag="report"):
    """The last line of a process."""

    sample: Sample
    rounds: Sequence[RoundReplies]


class CrowdSample(Struct, frozen=True, kw_only=True, tag_field="kind", tag="sample"):
    """The line of a second."""

    sample: Sample


class CrowdFailure(Struct, frozen=True, kw_only=True, tag_field="kind", tag="failure"):
    """The process cannot continue."""

    reason: str


CrowdLine = CrowdReport | CrowdSample | CrowdFailure
decode_line: msgspec.json.Decoder[CrowdLine] = msgspec.json.Decoder(CrowdLine)
decode_spec: msgspec.json.Decoder[CrowdSpec] = msgspec.json.Decoder(CrowdSpec)
