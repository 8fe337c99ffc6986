"""The report on a run of 500 rounds over 10,000 simulated devices: seconds, memory, size of the page.

    python -m benchmarks.report_page [--quick] [--out FOLDER]

No cloud: the rounds are made up, collected one by one as the report reads them, and written. The page is kept
with ``--out``; the picture in docs/runs.md is one of it. The last line is JSON.
"""

import random
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from fedgrass.console.reports.report_figures import Collector
from fedgrass.console.reports.run_report import write_report
from fedgrass.console.reports.turnaround_rows import Turnaround
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings

QUESTION = "report_page"
START = 1_700_000_000_000
ROUND_MS = 60_000
LOSSES = (Participation.DECLINED, Participation.FAILED, Participation.SILENT, Participation.LATE)
REASONS = ("battery below 30 %", "not enough memory", "the disk is full")


def main() -> None:
    """Measure, and print the figures."""
    parser = benchmark_parser(__doc__, "100 rounds over 2,000 devices")
    parser.add_argument("--out", type=Path, help="keep the page in this folder")
    options = parser.parse_args()
    devices, rounds = (2_000, 100) if options.quick else (10_000, 500)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(devices, rounds, devices * 3 // 100, options.out or Path(folder))
    for name, value in figures.items():
        print(f"{name:24} {value:,}")
    finish(QUESTION, options, figures)


def measure(devices: int, rounds: int, cohort: int, folder: Path) -> dict[str, float]:
    """Write the report of a simulated run; return the figures.

    Args:
        devices: of the fleet.
        rounds: of the run.
        cohort: devices that a round asks.
        folder: for the files of the report.
    """
    rng = random.Random(1)  # noqa: S311 - repeatable figures, not a secret
    speed = [20 * rng.lognormvariate(0, 0.5) for _ in range(devices)]  # usual seconds of each device
    collector, made, collecting = Collector(), [], 0.0
    for number in range(1, rounds + 1):
        round_, parts, rows = simulated_round(rng, number, rng.sample(range(devices), cohort), speed)
        before = time.perf_counter()
        collector.add(round_, parts, rows)
        collecting += time.perf_counter() - before
        made.append(round_)
    run = Run(
        name="night-12",
        state=RunState.SUCCEEDED,
        settings=RunSettings(task="digits", rounds=rounds, selection="random", count=cohort),
        started_at=START,
        ended_at=START + (rounds + 1) * ROUND_MS,
        reason=f"all {rounds} rounds closed",
        initial_sha256="",
        initial_bytes=2_000_000,
        round=rounds,
    )
    before = time.perf_counter()
    found = write_report(run, collector.figures(), made, folder, run.ended_at)
    return {
        "devices": devices,
        "rounds": rounds,
        "participations": rounds * cohort,
        "collect_seconds": round(collecting, 2),
        "write_seconds": round(time.perf_counter() - before, 2),
        "page_bytes": found.page_bytes,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def simulated_round(
    rng: random.Random, number: int, cohort: list[int], speed: list[float]
) -> tuple[Round, list[Participant], dict[str, Turnaround]]:
    """Return a closed round of which a twentieth of the devices was lost, and one in a hundred refused."""
    opened, parts, rows = START + number * ROUND_MS, [], {}
    for place in cohort:
        name, seconds, luck = f"sensor-{place:05}", speed[place] * rng.uniform(0.8, 1.2), rng.random()
        lost = luck < 0.05  # noqa: PLR2004 - a twentieth
        state = rng.choice(LOSSES) if lost else Participation.REPLIED
        if not lost and luck < 0.06:  # noqa: PLR2004 - one in a hundred
            state = Participation.REFUSED
        reason = "" if state is Participation.REPLIED else rng.choice(REASONS)
        received = 0 if lost else opened + round(seconds * 1000)
        parts.append(
            Participant(device=name, state=state, announced_at=opened, received_at=received, reason=reason)
        )
        if not lost:
            shares = {"download": 0.2, "evaluate": 0.1, "train": 0.5, "upload": 0.15}
            rows[name] = Turnaround(
                seconds=seconds, **{part: seconds * share for part, share in shares.items()}
            )
    good = sum(part.state is Participation.REPLIED for part in parts)
    learned = 2.7 ** (-number / 80)
    metrics = {
        "accuracy": 1 - 0.9 * learned - 0.01 * rng.random(),
        "loss": 2.3 * learned + 0.02 * rng.random(),
    }
    round_ = Round(
        run="night-12",
        number=number,
        attempt=1,
        state=State.CLOSED,
        asked=len(cohort),
        needed=len(cohort),
        minimum=1,
        opened_at=opened,
        deadline_at=opened + ROUND_MS,
        closed_at=opened + 55_000,
        base=number - 1,
        base_sha256="",
        base_bytes=2_000_000,
        accepted=good,
        replied=good,
        bytes_up=good * 500_000,
        metrics=metrics,
    )
    return round_, parts, rows


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
