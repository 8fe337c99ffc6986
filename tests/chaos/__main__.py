"""``make chaos``: run a number of rounds while everything goes wrong that can.

    python -m tests.chaos [--rounds 200] [--seed 1] [--seconds 600] [--logs FOLDER]
    python -m tests.chaos --schedules 2000 [--seed 1]

The same seed draws the same settings and, at each place, the same faults; what they hit depends on timing.
With --schedules no process is started: the functions run over ports in memory, and a seed is reproducible.
For every four of these schedules, one of runs with ServerApps is added.

The exit code is 0 only if that number of rounds closed, no reply was counted twice, no model is wrong and no
run is stuck.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from fedgrass.console.interruption import ended_by_signals
from tests.chaos.app_audit import AppFindings
from tests.chaos.app_runs import AppRuns
from tests.chaos.audit import Findings
from tests.chaos.campaign import CALM_SECONDS, Campaign, Quota
from tests.chaos.faults import Faults
from tests.chaos.in_memory import foreign_schedules, message_schedules
from tests.chaos.mishaps import Mishaps
from tests.chaos.pace import measured_pace
from tests.chaos.races import Races
from tests.chaos.world import World, open_worlds

FLEETS = ("north", "south")
DEVICES = 4  # of each
PROCESSES = 2  # that play schedules in memory
APPS_SHARE = 4  # one schedule of ServerApps for this number of others
SHORTEST, LONGEST = 75.0, 600.0  # seconds
TAKE_DOWN_SECONDS = 5.0
LONG_CAMPAIGN = 100  # rounds, in which each of these happens many times
MUST_HAPPEN = (
    "averager_killed",
    "averagers_raced",
    "device_killed",
    "initiator_killed",
    "message_delayed",
    "message_doubled",
    "message_dropped",
    "message_reordered",
    "mqtt_cut",
    "s3_500",
    "server_app_killed",
    "s3_503",
    "s3_cut",
    "s3_slow",
)


def say(line: str) -> None:
    """Print a line and flush it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_campaign(rounds: int, seed: int, seconds: float, logs: Path | None) -> int:
    """Run one campaign and print its findings; return the exit code."""
    faults = Faults(seed)
    started = time.monotonic()
    ends_at = started + seconds - CALM_SECONDS - TAKE_DOWN_SECONDS
    devices = f"{len(FLEETS)} fleets of {DEVICES} devices"
    say(f"chaos: {rounds} rounds over {devices}, seed {seed}, at most {seconds:.0f} s")
    pace = measured_pace()
    if pace.stretch > 1:
        say(f"the machine is busy: all times are stretched by {pace.stretch}")
    with (
        tempfile.TemporaryDirectory(prefix="fedgrass-chaos-") as folder,
        open_worlds(Path(folder), FLEETS, DEVICES, faults, pace) as worlds,
    ):
        say(f"the fleets are up ({time.monotonic() - started:.1f} s)")
        quota = Quota(rounds, len(worlds))
        campaigns = [Campaign(world, quota, ends_at, say) for world in worlds]
        apps = AppRuns(worlds[0], Path(folder) / "apps", ends_at, say)
        try:
            play_all(worlds, campaigns, apps)
        finally:
            if logs:
                _keep_logs(worlds[0], Path(folder), logs)
    findings = Findings()
    parts: Counter[str] = Counter()
    for world in worlds:
        parts.update({step: len(attempts) for step, attempts in world.gateway.parts_read.items()})
    for campaign in campaigns:
        findings.add(campaign.findings)
    ended = Counter(run.state for campaign in campaigns for run in campaign.ended)
    runs = ", ".join(f"{count} {state}" for state, count in sorted(ended.items()))
    findings.double_counted += apps.findings.double_counted
    findings.wrong_models += apps.findings.wrong_models
    findings.stuck += apps.findings.stuck
    say(f"{ended.total()} runs ({runs}) in {time.monotonic() - started:.0f} s")
    return _report(findings, apps.findings, faults, rounds, parts)


def play_schedules(count: int, seed: int) -> int:
    """Run schedules over ports in memory and print their findings; return the exit code."""
    began, last = time.monotonic(), seed + count - 1
    say(f"chaos: {count} schedules in memory, seeds {seed} to {last}")
    lines, bad = foreign_schedules.report(
        foreign_schedules.play_all(range(seed, seed + count), PROCESSES), began
    )
    began, of_apps = time.monotonic(), range(seed, seed + max(1, count // APPS_SHARE))
    more, worse = message_schedules.report(message_schedules.play_all(of_apps, PROCESSES), began)
    for line in [*lines, *more]:
        say(line)
    return int(bad + worse > 0)


def play_all(worlds: list[World], campaigns: list[Campaign], apps: AppRuns | None = None) -> None:
    """Run each campaign in its world, in parallel, and ServerApps; raise errors of the campaign itself."""
    faults = worlds[0].faults
    with ThreadPoolExecutor(3 * len(worlds) + 1, thread_name_prefix="chaos") as players:
        try:
            troubles = [players.submit(trouble) for world in worlds for trouble in _troubles(world)]
            runs = [players.submit(campaign.play) for campaign in campaigns]
            driven = [players.submit(apps.play)] if apps else []
            ending: list[Future[Any]] = [*troubles, *runs, *driven]
            for ended in as_completed(ending):
                ended.result()
                if all(run.done() for run in runs):
                    faults.end()
        finally:
            faults.stop()


def _troubles(world: World) -> tuple[Callable[[], None], ...]:
    return Mishaps(world).play, Races(world).play


def _report(
    findings: Findings, of_apps: AppFindings, faults: Faults, rounds: int, parts: Counter[str]
) -> int:
    say(f"rounds closed: {findings.closed}, {findings.replies} replies counted")
    _table(findings.aggregations.items())
    _table(findings.encodings.items())
    say(f"rounds of buffered runs: {findings.buffers}, {findings.stale} updates from older models")
    say(
        f"runs of ServerApps: {of_apps.runs}, with {of_apps.starts} processes, {of_apps.rounds} rounds closed"
    )
    say(f"replies to ServerApps: {of_apps.replies} counted, {of_apps.used} used; errors in their place:")
    _table(of_apps.errors.items())
    say(f"rounds made from partial sums: {parts['group_sum_read']}, from shards: {parts['shard_read']}")
    say(f"rounds abandoned: {findings.abandoned.total()}")
    _table(findings.abandoned.items())
    say("faults:")
    for kind, count in faults.by_kind().items():
        say(f"  {count:5}  {kind}")
        if kind.endswith("_killed"):
            _table(faults.details(kind).items(), "         ")
    never = _never_happened(faults, parts, findings) if rounds >= LONG_CAMPAIGN else []
    found = {
        "replies counted twice": findings.double_counted,
        "models wrong": findings.wrong_models,
        "runs stuck": findings.stuck,
        "faults that never happened": never,
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
        "buffers": findings.buffers,
        "server_app_runs": of_apps.runs,
        "server_app_replies": of_apps.replies,
        "stale_updates": findings.stale,
        "rounds_in_groups": parts["group_sum_read"],
        "rounds_in_shards": parts["shard_read"],
        "faults": faults.by_kind(),
    }
    say(json.dumps(figures))
    return int(any(found.values()) or findings.closed < rounds)


def _never_happened(faults: Faults, parts: Counter[str], findings: Findings) -> list[str]:
    """Return what a long campaign should have covered and did not."""
    counts = faults.by_kind()
    missing = [kind for kind in MUST_HAPPEN if not counts.get(kind)]
    missing += [] if findings.stale else ["stale_update"]
    return missing + [step for step in ("group_sum_read", "shard_read") if not parts[step]]


def _table(lines: Iterable[tuple[str, int]], indent: str = "  ") -> None:
    for what, count in lines:
        say(f"{indent}{count:5}  {what}")


def _keep_logs(world: World, folder: Path, logs: Path) -> None:
    """Copy the logs of the cloud and the cores for debugging."""
    logs.mkdir(parents=True, exist_ok=True)
    shutil.copy(world.cloud.log, logs / "cloud.log")
    for file in folder.glob("cores/*/greengrass/logs/*.log"):
        shutil.copy(file, logs / f"{file.parents[2].name}-{file.name}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="number of rounds to close")
    parser.add_argument("--seed", type=int, default=1, help="draws the faults and the runs' settings")
    parser.add_argument("--seconds", type=float, help="time limit")
    parser.add_argument(
        "--schedules",
        type=int,
        help="run this number of schedules over ports in memory instead, from the seed on",
    )
    parser.add_argument("--logs", type=Path, help="a folder for the logs of the cloud and the cores")
    chosen = parser.parse_args()
    if chosen.schedules:
        return play_schedules(chosen.schedules, chosen.seed)
    seconds = chosen.seconds or min(LONGEST, max(SHORTEST, 55 + 3 * chosen.rounds))
    if chosen.rounds < 1 or seconds < SHORTEST:
        parser.error(
            f"{chosen.rounds} rounds in {seconds:g} s are not possible: at least 1 round and {SHORTEST:g} s"
        )
    try:
        with ended_by_signals():  # what it started ends with it
            return run_campaign(chosen.rounds, chosen.seed, seconds, chosen.logs)
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
