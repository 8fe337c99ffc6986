"""Why a device is slow: the parts of its turnarounds against the medians of the fleet in the same rounds."""

import statistics
from collections.abc import Sequence

from msgspec import Struct

from fedgrass.console.devices.device_history import PARTS, WorkRecord, WorkTimes

_SLOW = 1.25  # times the turnaround of the fleet
_LEAST_EXCESS = 1.0  # seconds: less is not worth a finding
_MORE_EXAMPLES = 1.5  # times those of the fleet
_NAMES = (*PARTS, "other")
_MEANING = {
    "download": "downloading the model: its network, or a larger share of cold caches",
    "evaluate": "evaluating: its processor, or more data for evaluation",
    "train": "training: its processor, its memory, or other programs on it",
    "upload": "uploading the update: its network, or a bandwidth limit",
    "other": "neither working nor transferring: messages on their way, or work that had to wait",
}


class PartComparison(Struct, frozen=True, kw_only=True):
    """One part of the turnaround: medians over the compared rounds, in seconds."""

    part: str  # download, evaluate, train, upload or other
    device_seconds: float
    fleet_seconds: float
    longer_seconds: float  # by how much the device took longer; negative: it was faster


class SpeedComparison(Struct, frozen=True, kw_only=True):
    """A device's turnarounds against those of the fleet, over the rounds that both replied to."""

    rounds: int  # compared ones
    device_seconds: float  # median turnaround
    fleet_seconds: float  # median over these rounds of the fleet's median turnaround
    ratio: float  # of the two; 0: not comparable
    slow: bool
    slowest_part: str  # that takes most of the additional time; empty unless ``slow``
    parts: list[PartComparison]
    finding: str  # one sentence for people


def compare_speed(work: Sequence[WorkRecord]) -> SpeedComparison | None:
    """Return the comparison over all completions whose round has replies of other devices too, or None."""
    pairs = [
        (record.times, record.fleet)
        for record in work
        if record.times and record.fleet and record.fleet_devices > 1
    ]
    if not pairs:
        return None
    device, fleet = _median(pairs, 0, "turnaround"), _median(pairs, 1, "turnaround")
    parts = [_compare_part(pairs, part) for part in _NAMES]
    slowest = max(parts, key=lambda one: one.longer_seconds)
    ratio = device / fleet if fleet else 0.0
    slow = ratio >= _SLOW and device - fleet >= _LEAST_EXCESS
    return SpeedComparison(
        rounds=len(pairs),
        device_seconds=device,
        fleet_seconds=fleet,
        ratio=round(ratio, 3),
        slow=slow,
        slowest_part=slowest.part if slow else "",
        parts=parts,
        finding=_finding(pairs, device, fleet, slowest, slow=slow),
    )


def _median(pairs: Sequence[tuple[WorkTimes, WorkTimes]], side: int, part: str) -> float:
    found: float = statistics.median(getattr(pair[side], f"{part}_seconds") for pair in pairs)
    return round(found, 3)


def _compare_part(pairs: Sequence[tuple[WorkTimes, WorkTimes]], part: str) -> PartComparison:
    # Of the differences, not of the sides: rounds differ more than devices do.
    field = f"{part}_seconds"
    longer = statistics.median(getattr(own, field) - getattr(fleet, field) for own, fleet in pairs)
    return PartComparison(
        part=part,
        device_seconds=_median(pairs, 0, part),
        fleet_seconds=_median(pairs, 1, part),
        longer_seconds=round(longer, 3),
    )


def _finding(
    pairs: Sequence[tuple[WorkTimes, WorkTimes]],
    device: float,
    fleet: float,
    slowest: PartComparison,
    *,
    slow: bool,
) -> str:
    """Return the sentence that names the part because of which the device is slow."""
    against = f"its turnaround is {device:.1f} s, the fleet's median {fleet:.1f} s"
    if not slow:
        return f"as fast as others: {against}"
    times = f", {device / fleet:.1f} times as long" if fleet else ""
    text = (
        f"slow: {against}{times}; most of it in {slowest.part} ({slowest.device_seconds:.1f} s instead of"
        f" {slowest.fleet_seconds:.1f} s), {_MEANING[slowest.part]}"
    )
    own = statistics.median(one.examples for one, _ in pairs)
    usual = statistics.median(other.examples for _, other in pairs)
    if slowest.part == "train" and usual and own / usual >= _MORE_EXAMPLES:
        text += f"; it trains on {own / usual:.1f} times as many examples"
    return text
