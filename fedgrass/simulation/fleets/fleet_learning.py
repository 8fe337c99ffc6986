"""Learn a fleet from a deployed stack: its turnarounds and heartbeats become the conditions of devices.

Each device gets the medians of what it did. What is not known of a device is drawn from the others' values,
as gaps of a trace are.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from fedgrass.console import stack as deployed
from fedgrass.console.devices.device_records import reported_attributes
from fedgrass.console.runs.fleet_operator import Operator, open_operator
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection import Candidate
from fedgrass.simulation.fleets.condition_units import CONDITIONS
from fedgrass.simulation.fleets.device_rounds import DeviceRound, by_device, positive, read_device_rounds
from fedgrass.simulation.fleets.fleet_attributes import check_attributes
from fedgrass.simulation.fleets.fleet_spec import Availability, FleetSpec, ObservedDevice

MOST_ROUNDS = 500  # that are read
_GONE_DAYS = 7  # a device that was not seen for so long is left out
_MISSED_HEARTBEATS = 3  # after which a device is taken to be off
_HEARTBEAT_SECONDS = 60.0
_PRIOR_ROUNDS = 2.0  # of the fleet's dropout, which each device's own is mixed with
_LONGEST_LATENCY = 1.0  # seconds
_FEWEST_ROUNDS = 3  # of a device, to estimate its jitter from
_DAY = 86_400_000


def learn_stack(stack: str) -> FleetSpec:
    """Return the fleet of a deployed stack. Raises StackError, and what ``learn_fleet`` raises."""
    seconds = float(deployed.outputs(stack).get("HeartbeatSeconds", _HEARTBEAT_SECONDS))
    return learn_fleet(open_operator(stack), heartbeat_seconds=seconds)


def learn_fleet(
    operator: Operator,
    *,
    now: int | None = None,
    heartbeat_seconds: float = _HEARTBEAT_SECONDS,
    most_rounds: int = MOST_ROUNDS,
) -> FleetSpec:
    """Return the fleet of a stack, with a row for each device that it has seen in the last days.

    Args:
        operator: of the stack.
        now: milliseconds since the epoch; None: by this machine's clock.
        heartbeat_seconds: between two heartbeats of a device.
        most_rounds: the latest rounds of training that are read.

    Raises:
        SettingsError: the stack has no devices, or none has ever replied.
    """
    at = round(time.time() * 1000) if now is None else now
    rounds = read_device_rounds(operator, at, most_rounds)
    if not any(not one.lost for one in rounds):
        message = (
            "--like-fleet finds no reply of a device in an ended round of training: start a run on the stack"
            " first (`fedgrass run start`), or describe the fleet in a file (--fleet)"
        )
        raise SettingsError(message)
    found = operator.devices()
    present = [one for one in found if one.last_seen >= at - _GONE_DAYS * _DAY]
    if not present:
        message = (
            f"--like-fleet finds no device with a heartbeat in the last {_GONE_DAYS} days, of {len(found):,}:"
            " is the fleet on? A file can describe it (--fleet)"
        )
        raise SettingsError(message)
    history = by_device(rounds)
    usual_dropout = _share_lost(rounds)
    observed = tuple(
        _observe(one, history.get(one.device, []), usual_dropout)
        for one in sorted(present, key=lambda one: one.device)
    )
    spec = FleetSpec(
        # What is known of no device is not made up.
        fixed_seconds=0.0,
        download="unlimited",
        upload="unlimited",
        latency=0.0,
        dropout=usual_dropout,
        jitter=_jitter(history),
        availability=_availability(present, at, heartbeat_seconds),
        observed=observed,
        resample=True,
    )
    return _with_source(spec, rounds, history, len(found) - len(present))


def _observe(device: Candidate, rounds: Sequence[DeviceRound], usual_dropout: float) -> ObservedDevice:
    """Return the conditions of a device."""
    replies = [one for one in rounds if not one.lost]
    waiting = [one.waiting for one in replies]
    latency = min(_LONGEST_LATENCY, min(waiting) / 2) if waiting else None
    lost = len(rounds) - len(replies)
    examples = positive(one.examples for one in replies)
    values: dict[str, float | None] = {
        "seconds_per_example": _median(positive(one.seconds_per_example for one in replies)),
        # A message cannot be longer on its way than half of the shortest wait; the rest is the device's.
        "latency": latency,
        "fixed_seconds": None if latency is None else statistics.median(waiting) - 2 * latency,
        "download": _median(positive(one.download_rate for one in replies)),
        "upload": _median(positive(one.upload_rate for one in replies)),
        "dropout": (lost + usual_dropout * _PRIOR_ROUNDS) / (len(rounds) + _PRIOR_ROUNDS) if rounds else None,
    }
    limited: dict[str, Any] = {name: _within(name, value) for name, value in values.items()}
    own = _median(examples) or device.examples or None
    return ObservedDevice(
        name=device.device,
        examples=None if own is None else max(1, round(own)),
        attributes=_attributes(device),
        **limited,
    )


def _within(condition: str, value: float | None) -> float | None:
    """Return a value within the limits of the condition: devices report what they like."""
    if value is None or not math.isfinite(value):
        return None
    kind = CONDITIONS[condition]
    return min(max(value, kind.low), kind.high)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _attributes(device: Candidate) -> dict[str, str | float | bool]:
    found = reported_attributes(device)
    try:
        check_attributes(found, "attributes")
    except SettingsError:  # columns of a newer version, or a device that reports what no trainer does
        return {}
    return found


def _share_lost(rounds: Sequence[DeviceRound]) -> float:
    return sum(one.lost for one in rounds) / len(rounds)


def _jitter(history: Mapping[str, Sequence[DeviceRound]]) -> float:
    """Return the standard deviation of the logarithm of training durations within devices, pooled."""
    squares, degrees = 0.0, 0
    for rounds in history.values():
        logarithms = [math.log(value) for value in positive(one.seconds_per_example for one in rounds)]
        if len(logarithms) >= _FEWEST_ROUNDS:
            squares += statistics.variance(logarithms) * (len(logarithms) - 1)
            degrees += len(logarithms) - 1
    return round(min(5.0, math.sqrt(squares / degrees)), 4) if degrees else 0.0


def _availability(devices: Sequence[Candidate], now: int, heartbeat_seconds: float) -> Availability | None:
    """Return the times on and off that the heartbeats of one moment show.

    If times on and off are exponential, those who are off at a moment have been so for the mean time off on
    average, and the share that is on is that of the mean time on.
    """
    threshold = _MISSED_HEARTBEATS * heartbeat_seconds
    ages = [max(0.0, (now - one.last_seen) / 1000) for one in devices]
    off = [age for age in ages if age > threshold]
    if not off or len(off) == len(ages):
        return None
    mean_off = statistics.mean(off)
    mean_on = mean_off * (len(ages) - len(off)) / len(off)
    return Availability(
        on=f"exponential({mean_on:.6g})",
        off=f"exponential({mean_off:.6g})",
        repeats_after=max(86_400.0, round(10 * (mean_on + mean_off))),
    )


def _with_source(
    spec: FleetSpec, rounds: Sequence[DeviceRound], history: Mapping[str, object], gone: int
) -> FleetSpec:
    devices = spec.observed
    known = sum(one.name in history for one in devices)
    source = (
        f"learned from {len(rounds):,} device-rounds, {sum(one.lost for one in rounds):,} of them without a"
        f" reply, of {known:,} of {len(devices):,} devices"
    )
    if known < len(devices):
        source += f"; {len(devices) - known:,} without history are drawn like the others"
    if gone:
        source += f"; {gone:,} not seen for {_GONE_DAYS} days are left out"
    if spec.availability:
        source += "; times on and off from the age of the last heartbeats"
    else:
        source += "; the heartbeats show no times off: devices are always on"
    return replace(spec, source=source)
