"""Learning curves as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.simulated.learning_curves import Curve, Point

_COLOURS = ("#b03a2e", "#b9770e", "#1f4e79", "#2e7d4f", "#6c3483", "#555555", "#0e7c86")


def draw_curves(  # noqa: PLR0913 - what is drawn, and how
    curves: Mapping[str, Sequence[Curve]],
    file: Path,
    *,
    by: str,
    title: str,
    target: float | None = None,
    lowest: float = 0.0,
) -> None:
    """Draw the accuracy of several runs of several kinds.

    Args:
        curves: by kind, one of each seed.
        file: the PNG.
        by: the horizontal axis: ``seconds``, ``model`` or ``megabytes``.
        title: of the picture.
        target: an accuracy that is marked.
        lowest: accuracy that is shown.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import, and only a picture needs it

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, (kind, runs) in enumerate(curves.items()):
        for number, run in enumerate(runs):
            axes.plot(
                [_place(point, by) for point in run.points],
                [point.accuracy for point in run.points],
                color=_COLOURS[place % len(_COLOURS)],
                label=None if number else kind.replace("_", " "),
                linewidth=1.2,
                alpha=0.8,
            )
    if target is not None:
        axes.axhline(target, color="#777777", linewidth=0.8, linestyle="--", label=f"target {target:g}")
    axes.set_ylim(lowest, 1.0)
    axes.set_xlim(left=0)
    axes.set_xlabel({"seconds": "virtual seconds", "model": "round", "megabytes": "MB down and up"}[by])
    axes.set_ylabel("accuracy on test images")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120, format="png")


def _place(point: Point, by: str) -> Any:
    return point.bytes / 1e6 if by == "megabytes" else getattr(point, by)
