"""The part of a simulation that describes its fleet, as the file of ``fedgrass simulate --fleet`` has it."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError

Distribution = float | str  # a number, or a distribution such as "lognormal(10, 0.5)"
AttributeDistribution = bool | float | str
_LARGEST_FILE = 64 * 1024**2  # bytes


class Availability(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When devices are on: some hours of each day, or on and off by turns. Durations are in seconds.

    Attributes:
        turns_on: hour of the day at which a device is turned on.
        stays_on: how long it then stays on, up to a day.
        on: how long a device is on, each time.
        off: how long it is off after that.
        repeats_after: the turns of a device are drawn for this time, and then repeat.
    """

    turns_on: Distribution | None = None
    stays_on: Distribution | None = None
    on: Distribution | None = None
    off: Distribution | None = None
    repeats_after: Distribution = 86_400.0


class DeviceGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices that differ from the rest; what is left out is as in the whole fleet.

    Attributes:
        share: of the devices, as a percentage ("20 %") or in proportion to the other groups' shares.
        slowdown: their training takes this many times as long.
    """

    share: Distribution
    slowdown: Distribution | None = None
    seconds_per_example: Distribution | None = None
    fixed_seconds: Distribution | None = None
    jitter: Distribution | None = None
    download: Distribution | None = None
    upload: Distribution | None = None
    latency: Distribution | None = None
    dropout: Distribution | None = None
    examples: Distribution | None = None
    availability: Availability | None = None
    attributes: dict[str, AttributeDistribution] = {}


class ObservedDevice(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device of a trace, or of a real fleet; None: not known. Units as in ``DeviceConditions``."""

    name: str
    seconds_per_example: float | None = None
    fixed_seconds: float | None = None
    jitter: float | None = None
    download: float | None = None
    upload: float | None = None
    latency: float | None = None
    dropout: float | None = None
    examples: int | None = None
    on: tuple[tuple[int, int], ...] = ()
    period: int = 0
    attributes: dict[str, str | float | bool] = {}


class FleetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Distributions from which the conditions of each device are drawn, or the file of a trace.

    The defaults are of small boards on home or mobile links: a choice, not a measurement.

    Attributes:
        seconds_per_example: of training, for one example in one epoch.
        fixed_seconds: of each assignment, in addition.
        jitter: standard deviation of the logarithm of the duration of each training.
        download: of its link, in bytes per second.
        upload: of its link, in bytes per second.
        latency: of a message, one way, in seconds.
        dropout: probability that an assignment is accepted and never replied to.
        examples: at most this number of a device's examples are trained on; None: all.
        slices: of the task's data; with fewer slices than devices, several devices have the same one. 0: one
            for each device.
        slowdown: factor of the duration of the training.
        availability: when devices are on; None: always.
        starts_at: hour of the day at which the simulation starts.
        attributes: of devices, by name.
        groups: parts of the fleet, by name.
        trace: CSV or Parquet file with the devices. A column of it replaces the distribution here.
        gaps: of a trace: an error, or drawn from the other devices' values.
        resample: a fleet larger than the trace has further devices with the conditions of a drawn one.
        observed: the devices of a trace that has been read, or of a real fleet.
        source: what the observed devices rest on.
    """

    seconds_per_example: Distribution = "lognormal(0.005, 0.5)"
    fixed_seconds: Distribution = 1.0
    jitter: Distribution = 0.1
    download: Distribution = "lognormal(20 Mbit/s, 0.6)"
    upload: Distribution = "lognormal(5 Mbit/s, 0.6)"
    latency: Distribution = "lognormal(0.05, 0.4)"
    dropout: Distribution = 0.0
    examples: Distribution | None = None
    slices: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    slowdown: Distribution = 1.0
    availability: Availability | None = None
    starts_at: Annotated[float, Meta(ge=0, lt=24)] = 0.0
    attributes: dict[str, AttributeDistribution] = {}
    groups: dict[str, DeviceGroup] = {}
    trace: str = ""
    gaps: Literal["refuse", "draw"] = "refuse"
    resample: bool = False
    observed: tuple[ObservedDevice, ...] = ()
    source: str = ""


def load_fleet(path: Path) -> FleetSpec:
    """Return the fleet that a TOML file describes. A relative path of a trace starts at its folder.

    Raises:
        SettingsError: the file cannot be read, or a key or a value is unknown; one line.
    """
    from fedgrass.simulation.fleets.fleet_drawing import check_fleet  # noqa: PLC0415 - it needs FleetSpec

    text = _read(path)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = f'{path} is not valid TOML: {error}; it takes lines such as `upload = "5 Mbit/s"`'
        raise SettingsError(message) from error
    try:
        spec = convert(values, FleetSpec, whole="the keys of a fleet file", part="")
        check_fleet(spec)
    except SettingsError as error:
        message = f"{path}: {error}"
        raise SettingsError(message) from error
    if spec.trace and not Path(spec.trace).is_absolute():
        spec = msgspec.structs.replace(spec, trace=str(path.parent / spec.trace))
    return spec


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"--fleet {path} cannot be read: {reason}"
        raise SettingsError(message) from error
    if len(content) > _LARGEST_FILE:
        message = f"--fleet {path} is larger than the limit of {_LARGEST_FILE:,} bytes"
        raise SettingsError(message)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        message = f"--fleet {path} is not UTF-8 text: {error.reason} at byte {error.start}"
        raise SettingsError(message) from error
