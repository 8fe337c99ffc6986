"""What a drawn fleet is like, for people: a few lines, and a picture."""

import io
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    Formatter,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    PercentFormatter,
)
from msgspec import Struct
from numpy.typing import NDArray

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.simulation.fleets.data_slices import AssignmentSize, examples_of
from fedgrass.simulation.fleets.device_availability import DAY
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

_PALE, _DARK = "#9db8d2", "#1f4e79"
_BINS = 40
_TIMES = 97  # at which the share of devices that are on is counted
_SAMPLE = 4000  # devices of which that share is counted
Values = NDArray[np.float64]


class FleetOverview(Struct, frozen=True, kw_only=True):
    """Figures of a fleet. Durations are in seconds, of a round in which every device takes part."""

    devices: int
    training_median: float
    training_p95: float
    assignment_median: float  # with messages and transfers
    assignment_p95: float
    download_median: float  # bytes per second
    upload_median: float
    on_at_start: float  # share of the devices
    on_least: float  # of the first day
    on_most: float
    dropout: float  # mean probability


def training_seconds(devices: Sequence[DeviceConditions], size: AssignmentSize) -> Values:
    """Return the duration of each device's training, without jitter."""
    return np.array(
        [one.fixed_seconds + one.seconds_per_example * _examples(one, size) * size.epochs for one in devices]
    )


def assignment_seconds(devices: Sequence[DeviceConditions], size: AssignmentSize) -> Values:
    """Return the time from each device's announcement to its reply, without jitter and times off."""
    transfers = [2 * one.latency + size.download / one.download + size.upload / one.upload for one in devices]
    found: Values = training_seconds(devices, size) + np.array(transfers)
    return found


def _examples(device: DeviceConditions, size: AssignmentSize) -> int:
    return examples_of(device, size.examples) if size.examples else device.examples or 1


def assignment_size(records: Sequence[RoundRecord], epochs: float) -> AssignmentSize:
    """Return the size of the assignments of a run: medians of what its devices replied.

    Args:
        records: the rounds.
        epochs: of the training.
    """
    replies = [part for record in records for part in record.participants if part.examples]
    if not replies:
        return AssignmentSize(epochs=epochs)
    return AssignmentSize(
        examples=int(statistics.median(part.examples for part in replies)),
        epochs=epochs,
        download=max(record.round.bytes_to_download for record in records),
        upload=int(statistics.median(part.bytes for part in replies)),
    )


def overview(devices: Sequence[DeviceConditions], size: AssignmentSize) -> FleetOverview:
    """Return the figures of a fleet, which has at least one device."""
    training, whole = training_seconds(devices, size), assignment_seconds(devices, size)
    shares = [share for _, share in shares_on(devices)]
    return FleetOverview(
        devices=len(devices),
        training_median=float(np.median(training)),
        training_p95=float(np.quantile(training, 0.95)),
        assignment_median=float(np.median(whole)),
        assignment_p95=float(np.quantile(whole, 0.95)),
        download_median=_median_rate([one.download for one in devices]),
        upload_median=_median_rate([one.upload for one in devices]),
        on_at_start=shares[0],
        on_least=min(shares),
        on_most=max(shares),
        dropout=float(np.mean([one.dropout for one in devices])),
    )


def _median_rate(rates: Sequence[float]) -> float:
    return sorted(rates)[len(rates) // 2]


def shares_on(devices: Sequence[DeviceConditions]) -> list[tuple[float, float]]:
    """Return the share of devices that are on, over the first day: hours since the start, and the share.

    Of a large fleet some devices are counted, at equal steps.
    """
    sample = devices[:: max(1, math.ceil(len(devices) / _SAMPLE))]
    times = np.linspace(0, DAY, _TIMES).astype(int).tolist()
    if not any(one.on for one in sample):
        return [(at / 3_600_000, 1.0) for at in times]
    return [(at / 3_600_000, sum(one.is_on(at) for one in sample) / len(sample)) for at in times]


def describe_fleet(
    devices: Sequence[DeviceConditions], size: AssignmentSize, source: str = ""
) -> Iterator[str]:
    """Yield the lines that `fedgrass simulate` prints of its fleet.

    Args:
        devices: at least one.
        size: of an assignment.
        source: what a learned fleet rests on.
    """
    found = overview(devices, size)
    work = f"{size.examples:,} examples at most" if size.examples else "one example"
    if any(one.examples for one in devices) and not size.examples:
        work = "their examples"
    epochs = f"{size.epochs:g} epoch{'' if size.epochs == 1 else 's'}"
    yield (
        f"{found.devices:,} virtual devices: training takes {seconds(found.training_median)} (median),"
        f" {seconds(found.training_p95)} (95 %) for {work} in {epochs}"
    )
    yield (
        f"links {rate(found.download_median)} down, {rate(found.upload_median)} up (medians); on at the start"
        f" {found.on_at_start:.0%}, over the day {_range(found.on_least, found.on_most)}; dropout"
        f" {found.dropout:.1%}"
    )
    if source:
        yield f"the fleet is {source}"


def _range(least: float, most: float) -> str:
    return f"{least:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"


def seconds(value: float) -> str:
    """Return a duration in words: "250 ms", "12 s", "3.5 min"."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def rate(value: float) -> str:
    """Return a rate in words, from bytes per second: "8 Mbit/s"."""
    if math.isinf(value):
        return "unlimited"
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if value * 8 >= size:
            return f"{value * 8 / size:.3g} {unit}"
    return f"{value * 8:.3g} bit/s"


def draw_overview(devices: Sequence[DeviceConditions], size: AssignmentSize, title: str = "") -> bytes:
    """Return the picture of a fleet, which has at least one device, as a PNG."""
    png = io.BytesIO()
    make_overview(devices, size, title).savefig(png, dpi=120, format="png", metadata={"Software": None})
    return png.getvalue()


def make_overview(devices: Sequence[DeviceConditions], size: AssignmentSize, title: str = "") -> Figure:
    """Return the picture: training, replies over time, links and the share of devices that are on."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_training(axes[0, 0], training_seconds(devices, size))
    _draw_replies(axes[0, 1], devices, assignment_seconds(devices, size))
    _draw_links(axes[1, 0], devices)
    _draw_availability(axes[1, 1], devices)
    figure.suptitle(title or f"{len(devices):,} virtual devices")
    for panel in axes.flat:
        panel.grid(alpha=0.3)
    return figure


def _draw_training(axes: Axes, values: Values) -> None:
    _histogram(axes, values, _DARK, "")
    median, late = np.median(values), np.quantile(values, 0.95)
    for value, style, label in ((median, "-", "median"), (late, "--", "95 %")):
        axes.axvline(value, color="black", linestyle=style, linewidth=1, label=f"{label} {seconds(value)}")
    axes.legend(loc="best")
    _logarithmic(axes, FuncFormatter(lambda value, _: seconds(value)))
    axes.set(xlabel="training", ylabel="devices")


def _draw_replies(axes: Axes, devices: Sequence[DeviceConditions], values: Values) -> None:
    """Draw the share of replies that a round in which all devices are on and asked has after some time."""
    order = np.argsort(values, kind="stable")
    weights = 1 - np.array([one.dropout for one in devices])
    axes.plot(values[order], np.cumsum(weights[order]) / len(devices), color=_DARK)
    axes.set(xlabel="time since the announcement", ylabel="replies, if all are on", ylim=(0, 1.02))
    if values.min() > 0:
        _logarithmic(axes, FuncFormatter(lambda value, _: seconds(value)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_links(axes: Axes, devices: Sequence[DeviceConditions]) -> None:
    for name, color in (("download", _PALE), ("upload", _DARK)):
        rates = np.array([getattr(one, name) for one in devices])
        limited = rates[np.isfinite(rates)] * 8
        unlimited = f", {1 - len(limited) / len(rates):.0%} unlimited" if len(limited) < len(rates) else ""
        _histogram(axes, limited, color, f"{name}{unlimited}")
    axes.legend(loc="best")
    _logarithmic(axes, EngFormatter("bit/s"))
    axes.set(xlabel="link", ylabel="devices")


def _draw_availability(axes: Axes, devices: Sequence[DeviceConditions]) -> None:
    hours, shares = zip(*shares_on(devices), strict=True)
    axes.fill_between(hours, shares, color=_PALE)
    axes.plot(hours, shares, color=_DARK)
    axes.set(xlabel="hours since the start", ylabel="devices that are on", xlim=(0, 24), ylim=(0, 1.02))
    axes.set_xticks(range(0, 25, 4))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _histogram(axes: Axes, values: Values, color: str, label: str) -> None:
    """Draw a histogram with bins of equal ratio; a single value gets one bar."""
    if not len(values):
        axes.plot([1e6], [0], color=color, label=label)
        return
    least, most = max(values.min(), 1e-6), max(values.max(), 1e-6)
    if most <= least * 1.001:
        least, most = least / 1.5, most * 1.5
    bins = np.geomspace(least, most * 1.0001, _BINS + 1)
    axes.hist(np.clip(values, least, most), bins=list(bins), color=color, alpha=0.8, label=label or None)


def _logarithmic(axes: Axes, formatter: Formatter) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params("x", rotation=30)
