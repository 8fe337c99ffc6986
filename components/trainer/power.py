"""Battery and mains, as Linux tells of them in /sys/class/power_supply; elsewhere nothing is known."""

from collections.abc import Iterator
from pathlib import Path

SUPPLIES = Path("/sys/class/power_supply")
FULLEST = 100  # percent


def read_power(supplies: Path = SUPPLIES) -> dict[str, float | bool]:
    """Return what is known of ``battery`` (percent, the mean of several) and ``mains`` (whether it is on).

    A device without a battery has no ``battery``; one that cannot tell where its power comes from has no
    ``mains``.
    """
    kinds = [(folder, _read(folder / "type")) for folder in _own_supplies(supplies)]
    batteries = [folder for folder, kind in kinds if kind == "Battery"]
    online = [_read(folder / "online") for folder, kind in kinds if kind == "Mains" or kind.startswith("USB")]
    status = [found for folder in batteries if (found := _read(folder / "status")) not in {"", "Unknown"}]
    known: dict[str, float | bool] = {}
    if percents := [percent for folder in batteries if (percent := _percent(folder)) is not None]:
        known["battery"] = round(sum(percents) / len(percents), 1)
    if any(online):
        known["mains"] = any(text not in {"", "0"} for text in online)
    elif status:
        known["mains"] = "Discharging" not in status
    return known


def _own_supplies(supplies: Path) -> Iterator[Path]:
    """Yield the device's own supplies: the battery of a mouse has the scope "Device"."""
    try:
        folders = sorted(supplies.iterdir())
    except OSError:
        return
    yield from (folder for folder in folders if _read(folder / "scope") != "Device")


def _percent(battery: Path) -> float | None:
    text = _read(battery / "capacity")
    return float(min(int(text), FULLEST)) if text.isdecimal() else None


def _read(file: Path) -> str:
    """Return what a file says; empty if it says nothing: a driver may have no value at the moment."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
