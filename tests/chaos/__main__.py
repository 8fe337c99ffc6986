"""``make chaos``: at least so many rounds while everything goes wrong that can.

    python -m tests.chaos [--rounds 200] [--seed 1] [--seconds 600] [--logs FOLDER]

The same seed draws the same settings and, place by place, the same faults; what they hit is up to the timing.

Exit code 0 only if so many rounds were closed, no reply was counted twice, no model is wrong, no run stuck.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.chaos.audit import Findings
from tests.chaos.campaign import CALM_SECONDS, Campaign, Quota
from tests.chaos.faults import Faults
from tests.chaos.mishaps import Mishaps
from tests.chaos.races import Races
from tests.chaos.world import World, open_worlds

FLEETS = ("north", "south")
DEVICES = 4  # of each
SHORTEST, LONGEST = 75.0, 600.0  # seconds
TAKE_DOWN_SECONDS = 5.0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_campaign(rounds: int, seed: int, seconds: float, logs: Path | None) -> int:
    """Play one campaign and print what it found; return the exit code."""
    faults = Faults(seed)
    started = time.monotonic()
    ends_at = started + seconds - CALM_SECONDS - TAKE_DOWN_SECONDS
    devices = f"{len(FLEETS)} fleets of {DEVICES} devices"
    say(f"chaos: {rounds} rounds over {devices}, seed {seed}, at most {seconds:.0f} s")
    with (
        tempfile.TemporaryDirectory(prefix="fedgrass-chaos-") as folder,
        open_worlds(Path(folder), FLEETS, DEVICES, faults) as worlds,
    ):
        say(f"the fleets are up ({time.monotonic() - started:.1f} s)")
        quota = Quota(rounds)
        campaigns = [Campaign(world, quota, ends_at, say) for world in worlds]
        try:
            play_all(worlds, campaigns)
        finally:
            if logs:
                _keep_logs(worlds[0], Path(folder), logs)
    findings = Findings()
    for campaign in campaigns:
        findings.add(campaign.findings)
    ended = Counter(run.state for campaign in campaigns for run in campaign.ended)
    runs = ", ".join(f"{count} {state}" for state, count in sorted(ended.items()))
    say(f"{ended.total()} runs ({runs}) in {time.monotonic() - started:.0f} s")
    return _report(findings, faults, rounds)


def play_all(worlds: list[World], campaigns: list[Campaign]) -> None:
    """Play each campaign in its world, side by side; raises what went wrong in the campaign itself."""
    faults = worlds[0].faults
    with ThreadPoolExecutor(3 * len(worlds), thread_name_prefix="chaos") as players:
        try:
            troubles = [players.submit(trouble) for world in worlds for trouble in _troubles(world)]
            runs = [players.submit(campaign.play) for campaign in campaigns]
            ending: list[Future[Any]] = [*troubles, *runs]
            for ended in as_completed(ending):
                ended.result()
                if all(run.done() for run in runs):
                    faults.end()
        finally:
            faults.stop()


def _troubles(world: World) -> tuple[Callable[[], None], ...]:
    return Mishaps(world).play, Races(world).play


def _report(findings: Findings, faults: Faults, rounds: int) -> int:
    say(f"rounds closed: {findings.closed}, {findings.replies} replies counted")
    say(f"rounds abandoned: {findings.abandoned.total()}")
    _table(findings.abandoned.items())
    say("faults:")
    for kind, count in faults.by_kind().items():
        say(f"  {count:5}  {kind}")
        if kind.endswith("_killed"):
            _table(faults.details(kind).items(), "         ")
    found = {
        "replies counted twice": findings.double_counted,
        "models wrong": findings.wrong_models,
        "runs stuck": findings.stuck,
    }
    for what, cases in found.items():
        say(f"{what}: {len(cases)}")
        for case in cases:
            say(f"  {case}")
    figures = {
        "rounds_closed": findings.closed,
        "rounds_abandoned": findings.abandoned.total(),
        "double_counted": len(findings.double_counted),
        "wrong_models": len(findings.wrong_models),
        "stuck_runs": len(findings.stuck),
        "faults": faults.by_kind(),
    }
    say(json.dumps(figures))
    return int(any(found.values()) or findings.closed < rounds)


def _table(lines: Iterable[tuple[str, int]], indent: str = "  ") -> None:
    for what, count in lines:
        say(f"{indent}{count:5}  {what}")


def _keep_logs(world: World, folder: Path, logs: Path) -> None:
    """Copy what the cloud and the cores logged, for whoever looks for a defect."""
    logs.mkdir(parents=True, exist_ok=True)
    shutil.copy(world.cloud.log, logs / "cloud.log")
    for file in folder.glob("cores/*/greengrass/logs/*.log"):
        shutil.copy(file, logs / f"{file.parents[2].name}-{file.name}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="so many are to be closed")
    parser.add_argument("--seed", type=int, default=1, help="draws the faults and the runs' settings")
    parser.add_argument("--seconds", type=float, help="after which it ends in any case")
    parser.add_argument("--logs", type=Path, help="a folder for the logs of the cloud and the cores")
    chosen = parser.parse_args()
    seconds = chosen.seconds or min(LONGEST, max(SHORTEST, 55 + 3 * chosen.rounds))
    if chosen.rounds < 1 or seconds < SHORTEST:
        parser.error(
            f"{chosen.rounds} rounds in {seconds:g} s cannot be: at least 1 round, and {SHORTEST:g} s"
        )
    # However it is ended, what it started ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_campaign(chosen.rounds, chosen.seed, seconds, chosen.logs)
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
