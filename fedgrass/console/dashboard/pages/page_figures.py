"""What the page concludes from a run: does it learn, what holds it back and why, what does it cost."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from msgspec import Struct

from fedgrass.console.dashboard.fleet_views import Cell, CellState, RoundView, RunView
from fedgrass.console.terminal import printable
from fedgrass.federation.runs import LIVING
from fedgrass.federation.training_settings import LOCAL_PREFIX

Tone = Literal["good", "bad", "warn", "busy", "quiet"]
# One colour per state; the word is always shown with it.
TONES: dict[str, Tone] = {
    CellState.ASKED.value: "quiet",
    CellState.ACCEPTED.value: "busy",
    CellState.TRAINING.value: "busy",
    CellState.UPLOADING.value: "busy",
    CellState.REPLIED.value: "good",
    CellState.REFUSED.value: "bad",
    CellState.DECLINED.value: "warn",
    CellState.FAILED.value: "bad",
    CellState.SILENT.value: "warn",
    CellState.LATE.value: "warn",
}
RUN_TONES: dict[str, Tone] = {
    "RUNNING": "busy",
    "PAUSED": "warn",
    "SUCCEEDED": "good",
    "FAILED": "bad",
    "CANCELLED": "quiet",
}
_DONE = "SUCCEEDED"
_WINDOW = 3  # rounds whose mean is compared with that of the rounds before
_NOISE = 0.02  # of the metric's range so far: smaller changes are none
_SLOW = 2.0  # times the median turnaround
AT_WORK, SLOW = "still at work", "slow"
_MOST_NAMES = 3
_MOST_REASON = 120  # characters
_LOST = (CellState.FAILED, CellState.REFUSED, CellState.DECLINED, CellState.SILENT, CellState.LATE)
_AT_WORK = (CellState.ASKED, CellState.ACCEPTED, CellState.TRAINING, CellState.UPLOADING)
# Of charts: light enough for both themes.
_LINES = {"splitLine": {"lineStyle": {"color": "rgba(128, 128, 128, 0.3)"}}}
_LOWER = ("loss", "error", "rmse", "mae", "perplexity")  # parts of names of metrics that should fall
_PREFERRED = ("accuracy", "loss")


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether a run learns."""

    word: str
    tone: Tone
    sentence: str
    metric: str = ""
    latest: str = ""  # value of the metric, for people


class Hold(Struct, frozen=True, kw_only=True):
    """Devices that hold the run back, for one reason."""

    state: str  # one of CellState, or AT_WORK or SLOW
    tone: Tone
    devices: tuple[str, ...]
    reason: str


class Point(Struct, frozen=True):
    """The metric of one global model."""

    round: int
    value: float


def metric_of(run: RunView) -> str:
    """Return the metric that decides whether a run learns; empty if its devices reported none."""
    names = [name for each in run.rounds for name in each.metrics if not name.startswith(LOCAL_PREFIX)]
    for name in (run.target_metric, *_PREFERRED):
        if name and name in names:
            return name
    return names[0] if names else ""


def is_lower_better(run: RunView, metric: str) -> bool:
    """Return whether a metric should fall: by the run's settings for its target, else by its name."""
    if metric == run.target_metric:
        return run.lower_is_better
    return any(part in metric for part in _LOWER)


def points(run: RunView, metric: str) -> list[Point]:
    """Return the values of a metric by round, the last closed attempt of each."""
    found = {
        each.number: each.metrics[metric]
        for each in run.rounds
        if each.state == "CLOSED" and metric in each.metrics
    }
    return [Point(number, value) for number, value in sorted(found.items())]


def learning(run: RunView) -> Verdict:
    """Return whether a run learns: the mean of its last rounds against that of the rounds before."""
    metric = metric_of(run)
    curve = points(run, metric)
    if not curve:
        return Verdict(word="No figures yet", tone="quiet", sentence=_without_figures(run))
    latest, name = shown_metric(metric, curve[-1].value), printable(metric, 32)
    if len(curve) < _WINDOW:
        sentence = f"{name} {latest} after {_rounds(len(curve))}: too few for a verdict."
        return Verdict(word="Too few rounds", tone="quiet", sentence=sentence, metric=metric, latest=latest)
    values = [point.value for point in curve]
    window = min(_WINDOW, len(values) // 2)
    change = statistics.fmean(values[-window:]) - statistics.fmean(values[-2 * window : -window])
    better = -change if is_lower_better(run, metric) else change
    threshold = _NOISE * ((max(values) - min(values)) or 1.0)
    best = min(curve, key=_value) if is_lower_better(run, metric) else max(curve, key=_value)
    word, tone = _judged(better, threshold)
    gained = -1.0 if is_lower_better(run, metric) else 1.0
    if run.line.state == _DONE and tone != "bad" and gained * (values[-1] - values[0]) > threshold:
        word, tone = "Learned", "good"
    sentence = (
        f"{name} {latest}, {shown_change(metric, change)} over the last {_rounds(2 * window)};"
        f" best {shown_metric(metric, best.value)} in round {best.round}."
    )
    return Verdict(word=word, tone=tone, sentence=sentence, metric=metric, latest=latest)


def _judged(better: float, threshold: float) -> tuple[str, Tone]:
    if better > threshold:
        return "Learning", "good"
    return ("Getting worse", "bad") if better < -threshold else ("Levelled off", "warn")


def _without_figures(run: RunView) -> str:
    if run.waiting_since:
        return "It waits: no device is eligible for its next round."
    if any(each.state == "CLOSED" for each in run.rounds):
        return "Its devices report no metric of the global model."
    return "No round has closed yet."


def _value(point: Point) -> float:
    return point.value


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def shown_metric(metric: str, value: float) -> str:
    """Return a metric for people: shares as per cent."""
    return f"{value:.1%}" if _is_share(metric, value) else f"{value:.4g}"


def shown_change(metric: str, change: float) -> str:
    """Return a change of a metric with its sign; of shares in points."""
    return f"{change * 100:+.1f} points" if "accuracy" in metric else f"{change:+.3g}"


def _is_share(metric: str, value: float) -> bool:
    return "accuracy" in metric and 0 <= value <= 1


def held_back_by(run: RunView, now: int) -> list[Hold]:
    """Return which devices hold a run back and why, those that are lost first.

    Args:
        run: with the cells of its open round, or of its latest one.
        now: milliseconds since the epoch.
    """
    found = list(_losses(run.cells))
    open_round = run.open_round
    replied = [cell.turnaround_seconds for cell in run.cells if cell.turnaround_seconds > 0]
    median = statistics.median(replied) if replied else 0.0
    if open_round is not None and open_round.state == "OPEN":
        found += _waited_for(run.cells, open_round, median, now)
    return found + _slow(run.cells, median)


def _losses(cells: Sequence[Cell]) -> Iterable[Hold]:
    for state in _LOST:
        by_reason: dict[str, list[str]] = {}
        for cell in cells:
            if cell.state is state:
                by_reason.setdefault(cell.reason, []).append(cell.device)
        for reason, devices in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            said = reason.removeprefix(f"{state.value}: ")
            text = printable(said, _MOST_REASON) if said else _unexplained(state)
            yield Hold(state=state.value, tone=TONES[state.value], devices=tuple(devices), reason=text)


def _unexplained(state: CellState) -> str:
    return {
        CellState.SILENT: "has not accepted the work",
        CellState.LATE: "replied after the round had ended",
    }.get(state, "gave no reason")


def _waited_for(cells: Sequence[Cell], open_round: RoundView, median: float, now: int) -> Iterable[Hold]:
    """Yield the devices that are still at work longer than the others took."""
    waited = max(0.0, (now - open_round.opened_at) / 1000)
    at_work = [cell for cell in cells if cell.state in _AT_WORK]
    if not (median and at_work and waited > _SLOW * median):
        return
    slowest = min(at_work, key=lambda cell: (cell.progress, cell.device))
    progress = f", the slowest at {slowest.progress:.0%}" if slowest.progress else ""
    reason = f"after {shown_seconds(waited)}, the others took {shown_seconds(median)}{progress}"
    devices = tuple(cell.device for cell in sorted(at_work, key=lambda cell: (cell.progress, cell.device)))
    yield Hold(state=AT_WORK, tone="busy", devices=devices, reason=reason)


def _slow(cells: Sequence[Cell], median: float) -> list[Hold]:
    slow = sorted(
        (cell for cell in cells if median and cell.turnaround_seconds > _SLOW * median),
        key=lambda cell: -cell.turnaround_seconds,
    )
    if not slow:
        return []
    reason = f"took up to {shown_seconds(slow[0].turnaround_seconds)}, the median is {shown_seconds(median)}"
    return [Hold(state=SLOW, tone="warn", devices=tuple(cell.device for cell in slow), reason=reason)]


def some_names(devices: Sequence[str]) -> str:
    """Return the first names of a list and the number of the others."""
    left = len(devices) - _MOST_NAMES
    names = ", ".join(printable(name, 64) for name in devices[:_MOST_NAMES])
    return f"{names} and {left:,} more" if left > 0 else names


def shown_seconds(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 10:  # noqa: PLR2004 - one digit more for short ones
        return f"{seconds:.1f} s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def shown_dollars(dollars: float | None) -> str:
    """Return an amount with the digits that it needs."""
    if dollars is None:
        return "not known"
    if dollars == 0:
        return "$0"
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.2g}" if dollars >= 1e-4 else "under $0.0001"  # noqa: PLR2004


def shown_bytes(count: float) -> str:
    """Return a number of bytes in its largest unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def cost_sentence(run: RunView) -> str:
    """Return what a run's cost is made of, and what it will be at its end if the rounds continue alike."""
    down, up = sum(each.bytes_down for each in run.rounds), sum(each.bytes_up for each in run.rounds)
    traffic = f"{shown_bytes(down)} to the devices, {shown_bytes(up)} from them."
    closed = sum(each.state == "CLOSED" for each in run.rounds)
    left = run.line.rounds - closed
    if run.cost_dollars is None or not closed or left <= 0 or run.line.state not in LIVING:
        return traffic
    total = run.cost_dollars / closed * run.line.rounds
    return f"About {shown_dollars(total)} after {run.line.rounds} rounds. {traffic}"


def curve_options(run: RunView) -> dict[str, Any]:
    """Return the ECharts options of a run's curves: its metric and, below, the devices of each round.

    NiceGUI evaluates values whose key begins with a colon, so no text of a device is ever a key here.
    """
    metric = metric_of(run)
    closed = [each for each in run.rounds if each.state in {"CLOSED", "ABANDONED"}]
    curve = [[str(point.round), point.value] for point in points(run, metric)]
    local = [[str(point.round), point.value] for point in points(run, f"{LOCAL_PREFIX}{metric}")]
    rounds = sorted({each.number: each for each in closed}.values(), key=lambda each: each.number)
    bars = [
        ("replied", "good", [[str(each.number), each.replied - each.refused] for each in rounds]),
        ("lost", "bad", [[str(each.number), lost(each)] for each in rounds]),
    ]
    name = printable(metric, 32) or "metric"
    last = max(2, run.line.rounds, run.line.round)
    # Rounds by name: an axis of numbers would be padded for the bars, and not be aligned with the curve's.
    axis = {"type": "category", "data": [str(number) for number in range(1, last + 1)]}
    return {
        "animation": False,
        "aria": {"enabled": False},
        "grid": [
            {"left": 52, "right": 16, "top": 34, "height": "48%"},
            {"left": 52, "right": 16, "bottom": 42, "height": "20%"},
        ],
        "legend": {
            "top": 0,
            "left": 4,
            "icon": "roundRect",
            "itemWidth": 14,
            "itemGap": 8,
            "type": "scroll",  # on a phone, a second line would cover the axis
            "pageTextStyle": {"color": "gray"},
            "pageIconColor": "gray",
        },
        "tooltip": {"trigger": "axis", "renderMode": "richText", "confine": True},
        "xAxis": [
            {**axis, "gridIndex": 0, "axisLabel": {"show": False}},
            {**axis, "gridIndex": 1, "name": "round", "nameLocation": "middle", "nameGap": 26},
        ],
        "yAxis": [
            {"type": "value", "scale": True, "gridIndex": 0, **_LINES},
            {"type": "value", "gridIndex": 1, "minInterval": 1, "splitNumber": 2, **_LINES},
        ],
        "series": [
            {"name": name, "type": "line", "data": curve, "showSymbol": len(curve) < 60, "color": "#1a6fd4"},  # noqa: PLR2004
            *(
                [
                    {
                        "name": f"{name} after local training",
                        "type": "line",
                        "data": local,
                        "showSymbol": False,
                        "lineStyle": {"type": "dashed"},
                        "color": "#8a63c9",
                    }
                ]
                if local
                else []
            ),
            *(
                {
                    "name": label,
                    "type": "bar",
                    "stack": "devices",
                    "xAxisIndex": 1,
                    "yAxisIndex": 1,
                    "barMaxWidth": 18,
                    "data": data,
                    "color": {"good": "#2c8a4b", "bad": "#c8372d"}[tone],
                }
                for label, tone, data in bars
            ),
        ],
    }


def lost(each: RoundView) -> int:
    """Return how many devices of a round were lost or refused."""
    return each.refused + each.declined + each.failed + each.silent + each.late
