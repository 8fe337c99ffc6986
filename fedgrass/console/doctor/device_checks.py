"""Checks of the devices: heartbeats, component versions, the problems that they report, certificates."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from fedgrass import __version__
from fedgrass.console.devices.device_records import problems_of
from fedgrass.console.devices.device_registration import certificates_of
from fedgrass.console.doctor.health_report import Examined, Finding, good, note, problem, some
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.stack import is_missing
from fedgrass.federation.selection import Candidate

_BEATS = 5  # intervals between heartbeats after which a device is missing
_EXPIRES_DAYS = 30  # before which a certificate is reported
_DAY = 86_400_000  # milliseconds


def check_devices(examined: Examined) -> Iterator[Finding]:
    """Check heartbeats, component versions, reported problems and certificates of all devices."""
    devices = sorted(Operator(examined.clients, examined.outputs).devices(), key=lambda device: device.device)
    if not devices:
        remedy = "provision and deploy devices (docs/devices.md), or wait for their first heartbeat"
        yield note("devices", "none has sent a heartbeat", remedy)
        return
    yield from _seen(examined, devices)
    yield from _versions(devices)
    yield from _reported(devices)
    yield from _certificates(examined, devices)


def _seen(examined: Examined, devices: Sequence[Candidate]) -> Iterator[Finding]:
    within = _BEATS * float(examined.outputs.get("HeartbeatSeconds", "60"))
    missing = [one.device for one in devices if one.last_seen < examined.now - within * 1000]
    if len(missing) == len(devices):
        text = f"none of {len(devices):,} has sent a heartbeat within {within:g} s"
        remedy = "check the heartbeat rule, the role alias and the devices' connection (docs/operations.md)"
        yield problem("devices", text, remedy)
    elif missing:
        text = f"{len(missing):,} of {len(devices):,} sent no heartbeat within {within:g} s: {some(missing)}"
        yield note("devices", text, "`fedgrass devices list --missing` lists them")
    else:
        yield good("devices", f"all {len(devices):,} sent a heartbeat within {within:g} s")


def _versions(devices: Sequence[Candidate]) -> Iterator[Finding]:
    found = Counter(str(one.attributes.get("version", "") or "unknown") for one in devices)
    text = ", ".join(f"{count:,} with {version}" for version, count in found.most_common(5))
    # Devices without Greengrass have no version of a component.
    if set(found) <= {__version__, "unknown"}:
        yield good("component versions", text)
    else:
        remedy = (
            f"this is fedgrass {__version__}: publish its component by `fedgrass deploy component`, deploy it"
            " by `fedgrass deploy devices` (docs/devices.md)"
        )
        yield note("component versions", text, remedy)


def _reported(devices: Sequence[Candidate]) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = {}
    for device in devices:
        for one in problems_of(device):
            kinds.setdefault(one.heading, []).append(f"{device.device} ({one.text})")
    for heading, names in kinds.items():
        remedy = "`fedgrass devices show THING` and `fedgrass devices logs THING` have more"
        yield problem("device problems", f"{heading}: {some(names)}", remedy)


def _certificates(examined: Examined, devices: Sequence[Candidate]) -> Iterator[Finding]:
    iot, looked, bad = examined.clients("iot"), 0, 0
    for device in devices[: examined.most_certificates]:
        looked += 1
        try:
            certificates = certificates_of(iot, device.device)
        except Exception as error:
            if not is_missing(error):
                raise
            bad += 1
            remedy = f"`fedgrass devices forget {shlex.quote(device.device)}`, if it is no device any more"
            yield problem("certificates", f"{device.device} is no thing of AWS IoT any more", remedy)
            continue
        active = [one for one in certificates if one.status == "ACTIVE"]
        last = max((one.expires_at or examined.now + 10_000 * _DAY for one in active), default=None)
        if last is None:
            bad += 1
            text = f"{device.device} has no active certificate: it cannot connect"
            yield problem(
                "certificates", text, "activate it, or provision the device again (docs/devices.md)"
            )
        elif last < examined.now + _EXPIRES_DAYS * _DAY:
            bad += 1
            ends = time.strftime("%Y-%m-%d", time.gmtime(last / 1000))
            ending = "expired" if last < examined.now else "expires"
            text = f"the certificate of {device.device} {ending} on {ends}"
            yield problem("certificates", text, "attach a new one to the thing, and install it on the device")
    if looked and not bad:
        text = f"those of {looked:,} of {len(devices):,} devices are active for {_EXPIRES_DAYS} days or more"
        yield good("certificates", text)
