"""The pictures of docs/benchmarks.md: SVG, each with a digest of the figures that it was drawn from."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "pictures" / "benchmarks"
_COLOURS = {"fedgrass": "#2a6f4e", "flower": "#d9862b", "flare": "#5b7fb5"}
_WIDTH = 0.27  # of a bar
_LEAST_SECONDS = 0.05  # where the bars begin: a logarithmic axis has no zero


def digest(figures: Mapping[str, Any]) -> str:
    """Return a digest of figures."""
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()


def overhead(figure: Any, figures: Mapping[str, Any]) -> None:
    """Draw the seconds of a round as bars, for each size of the model."""
    for place, (size, cells) in zip(_row(figure, len(figures)), figures.items(), strict=True):
        for number, (system, colour) in enumerate(_COLOURS.items()):
            found = [(x, cell[system]["s"]) for x, cell in enumerate(cells.values()) if cell.get(system)]
            if found:
                left = [x + (number - 1) * _WIDTH for x, _ in found]
                bars = place.bar(left, [seconds for _, seconds in found], _WIDTH, color=colour, label=system)
                place.bar_label(bars, fmt="%.3g", fontsize=8)
        place.set_yscale("log")
        place.set_ylim(_LEAST_SECONDS, 2 * max(_seconds(figures)))
        place.yaxis.set_major_formatter("{x:g}")
        place.set_xticks(range(len(cells)), [f"{name} device{'s' * (name != '1')}" for name in cells])
        place.set_title(f"a model of {size.replace('_', ' ').upper()}")
        place.set_ylabel("seconds a round")
        place.legend()


def _seconds(figures: Mapping[str, Any]) -> list[float]:
    return [
        cell[system]["s"]
        for cells in figures.values()
        for cell in cells.values()
        for system in _COLOURS
        if cell.get(system)
    ]


def averaging(figure: Any, figures: Mapping[str, Any]) -> None:
    """Draw the seconds of an average, and its memory, by the number of updates."""
    time, memory = _row(figure, 2)
    lines = figures["sizes"]
    for place, own, flowers, unit in (
        (time, "seconds", "flower_seconds", "seconds"),
        (memory, "peak_mb", "flower_peak_mb", "MB at most"),
    ):
        for name, column in (("fedgrass", own), ("flower", flowers)):
            found = [(line["n"], line[column]) for line in lines if line[column] is not None]
            place.plot(*zip(*found, strict=True), "o-", color=_COLOURS[name], label=name) if found else None
        place.set_xlabel(f"updates of {lines[0]['model_mb']:g} MB")
        place.set_ylabel(unit)
        place.set_ylim(bottom=0)
        place.legend()


def start(figure: Any, figures: Mapping[str, Any]) -> None:
    """Draw the parts of a start one after the other."""
    (place,) = _row(figure, 1)
    left = 0.0
    parts = {name: value for name, value in figures["parts"].items() if value and name != "total_s"}
    for name, seconds in parts.items():
        place.barh(name.removesuffix("_s").replace("_", " "), seconds, left=left, color=_COLOURS["fedgrass"])
        place.text(
            left + seconds, name.removesuffix("_s").replace("_", " "), f" {seconds:.1f} s", va="center"
        )
        left += seconds
    place.invert_yaxis()
    place.set_xlim(0, left * 1.12)
    place.set_xlabel("seconds since the start")


def accuracies(figure: Any, figures: Mapping[str, Any]) -> None:
    """Draw the accuracy of each kind of run: the mean of the seeds, with the lowest and the highest."""
    (place,) = _row(figure, 1)
    for name, one in reversed(_accuracies(figures).items()):
        place.plot([one["lowest"], one["highest"]], [name, name], color=_COLOURS["fedgrass"], alpha=0.5)
        place.plot(one["mean"], name, "o", color=_COLOURS["fedgrass"])
        place.annotate(f"{one['mean']:.4g}", (one["mean"], name), (0, 6), textcoords="offset points")
    place.margins(y=0.2)
    place.set_xlabel("accuracy")


def _accuracies(figures: Mapping[str, Any], path: str = "") -> dict[str, Mapping[str, Any]]:
    """Return all figures named ``accuracy`` that have a mean, by where they are."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, value in figures.items():
        if not isinstance(value, dict):
            continue
        if name == "accuracy" and value.get("mean") is not None:
            found[path] = value
        else:
            found |= _accuracies(value, f"{path} {name}".strip().replace("_", " "))
    return found


PICTURES: Mapping[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "round_overhead": overhead,
    "averaging": averaging,
    "start": start,
    "learning": accuracies,
}


def _row(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def draw(entries: Mapping[str, Mapping[str, Any]], folder: Path = FOLDER) -> None:
    """Draw the pictures of all questions that have one and are recorded.

    Args:
        entries: the record.
        folder: of the pictures.
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and the page alone does not need it
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    folder.mkdir(parents=True, exist_ok=True)
    for question, drawn in PICTURES.items():
        if question not in entries:
            continue
        figures = entries[question]["figures"]
        figure = Figure(figsize=(9, 4), layout="constrained")
        drawn(figure, figures)
        # The same bytes each time: ids from a fixed salt, no date; letters as text keep the file small.
        with mpl.rc_context({"svg.hashsalt": question, "svg.fonttype": "none"}):
            metadata = {"Date": None, "Description": digest(figures)}
            figure.savefig(folder / f"{question}.svg", metadata=metadata)
