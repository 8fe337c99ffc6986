"""The commands that the pages show, what those of a running fleet print, and which tests run the others."""

import re
import shlex
from collections.abc import Iterator

import package

ROOT = package.ROOT
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

RUN = "digits-1"
"""The run whose name replaces ``<run>`` of a documented command."""

# What tests/e2e/test_page_commands_on_fleet.py runs in this order on a fleet with the devices press-1 and
# press-7 that train digits: the command as a page shows it, its exit code, and a pattern in what it prints.
SCRIPT: tuple[tuple[str, int, str], ...] = (
    ("task weights digits --out 0.safetensors", 0, "^$"),
    ("run start digits-1 task=digits rounds=10 deadline_seconds=900 --model 0.safetensors", 0, "RUNNING"),
    ("run list --state RUNNING", 0, r"digits-1 +RUNNING"),
    ("run pause digits-1", 0, r"run digits-1: PAUSED(?s:.*) pause by "),
    ("run resume digits-1", 0, r"run digits-1: RUNNING(?s:.*) resume by "),
    ("run wait digits-1 --timeout 3600", 0, r"^run digits-1: SUCCEEDED all 10 rounds closed\n$"),
    ("run follow digits-1", 0, "SUCCEEDED"),
    ("run list", 0, r"digits-1 +SUCCEEDED +digits"),
    ("run show digits-1", 0, r"run digits-1: SUCCEEDED(?s:.*)\n +10 +2 / 2 / 0 "),
    ("run next digits-1", 1, "is SUCCEEDED; this action requires RUNNING"),
    ("run retry digits-1", 1, "is SUCCEEDED"),
    ("run cancel digits-1", 1, "is SUCCEEDED; this action requires "),
    (
        "run start digits-2 task=digits rounds=3 --continue-from <run>/5 --dry-run",
        0,
        r"^run digits-2 would ask 2 devices in its first round: press-1, press-7\n",
    ),
    ("run start first task=digits rounds=3 --model 0.safetensors", 0, "run first: RUNNING"),
    ("run show first", 0, "run first: "),
    ("run start digits-2 task=digits rounds=3 --continue-from <run>/5", 0, "run digits-2: RUNNING"),
    ("run follow digits-2", 0, "SUCCEEDED"),
    ("run start again task=digits rounds=3 --continue-from <run>/5", 0, "run again: RUNNING"),
    ("run wait again", 0, r"^run again: SUCCEEDED"),
    ("run show again", 0, r"run again: SUCCEEDED(?s:.*)\n +3 +2 / 2 / 0 "),
    (
        "run start next task=digits rounds=20 selection=random count=2 --continue-from again/3 --dry-run",
        0,
        (
            r"^run next would ask 2 devices in its first round: press-1, press-7\n"
            r"  founded on: the devices table now; the round chooses again when it opens, by the same rule\n"
            r"rounds: 20 of training and 1 of evaluation; 2 good replies close one\n"
            r"bytes: [\d.]+ MB down and [\d.]+ MB up in all; each device .* in a round\n"
            r"  founded on: the file of the initial model and the run's encodings\n"
            r"time: [\d.]+ \w+ in all, [\d.]+ s a round\n"
            r"  founded on: the median of the last \d training rounds of run again, .*\n"
            r"cost: [\d.]+ US dollars in all\n"
            r"  founded on: the bytes above and the prices of docs/costs.md\n"
            r"nothing was started\n$"
        ),
    ),
    (
        "run start quick task=digits selection=random count=3 'where=battery >= 30' --model 0.safetensors",
        1,
        "no device reports battery",
    ),
    (
        "run compare digits-1 digits-2 --by time --picture compared.png",
        0,
        r"^setting +digits-1 +digits-2\n(?s:.*)\nrounds +10 +3\n",
    ),
    ("run download digits-1", 0, r"model\.safetensors"),
    ("run download digits-2", 0, r"model\.safetensors"),
    ("report digits-1", 0, r"report\.html"),
    ("report digits-2", 0, r"report\.html"),
    ("run repair digits-1 --dry-run", 0, r"nothing is missing\n$"),
    ("run repair digits-1", 0, r"nothing is missing\n$"),
    ("run track digits-1 --sink jsonl:runs.jsonl", 0, "jsonl:runs.jsonl"),
    ("model list --task digits", 0, r"(?s)digits-1/10 .*digits-2/0 .*digits-2/3 "),
    (
        "model promote digits-1/2 --alias production",
        0,
        "^production of the task digits names digits-1/2 now\n$",
    ),
    ("model promote digits-1/3 --alias production", 0, r"names digits-1/3 now, before digits-1/2\n$"),
    ("model promote digits-2/3 --alias production", 0, r"names digits-2/3 now, before digits-1/3\n$"),
    ("model rollback --alias production --task digits", 0, r"names digits-1/3 now, before digits-2/3\n$"),
    ("devices list", 0, r"(?s)^2 devices: 2 seen in the last 300 s, 0 not\n.*press-1.*press-7"),
    ("devices list --missing", 0, "^0 of 2 devices meet the filters\n$"),
    ("devices list --missing --group presses", 0, "^0 of 2 devices meet the filters\n$"),
    ('devices list --where network=wifi --where "battery < 20"', 0, "^0 of 2 devices meet the filters\n$"),
    ("devices show press-1", 0, r"^press-1: seen (?s:.*)median of 2 (?s:.*)the fleet's median "),
    ("devices show press-7", 0, r"^press-7: seen (?s:.*)median of 2 (?s:.*)the fleet's median "),
    (
        "devices logs press-1 --lines 3",
        0,
        r"^(\d{4}-\d\d-\d\d [\d:]{8} (trainer|worker) .*\n){3}older lines ",
    ),
    ("devices forget press-7", 1, "confirm it by --yes"),
    ("doctor", 0, r"(?s)^ok +credentials: account 000000000000.* 0 problems\n$"),
    ("queue show", 0, "^0 dead letters\n$"),
    ("watch --seconds 5 --count 1", 0, r"watching fedgrass/fedgrass/#"),
    (
        "run start quick --settings-file settings.toml rounds=20 --model 0.safetensors",
        0,
        "run quick: RUNNING",
    ),
)

# Tests that run the other commands, or their functions with such settings, by how the command begins; the
# longest beginning counts.
ELSEWHERE = {
    "core deploy": "e2e/test_core_command.py",
    "costs": "documents/test_page_commands.py",
    "dashboard": "e2e/test_dashboard_live.py",
    "demo": "e2e/test_demo_command.py",
    "demo --task flower:": "e2e/test_flower_page.py",
    "deploy cloud": "integration/console/test_deploy_cloud.py",
    "deploy cloud --strategy": "e2e/test_custom_strategies.py",
    "deploy component": "integration/console/test_deploy_cloud.py",
    "deploy devices": "integration/console/test_deploy_cloud.py",
    "deploy devices --options-table": "e2e/test_options_of_a_device.py",
    "deploy devices --thing press-1 --option": "e2e/test_options_of_a_device.py",
    "deploy down": "integration/console/test_deploy_cloud.py",
    "fleet provision": "integration/console/test_fleet_provisioning.py",
    "flower add": "integration/console/test_flower_publishing.py",
    "flower check": "e2e/test_flower_page.py",
    "flower run": "e2e/test_flower_apps.py",
    "model convert-pickle": "integration/console/test_model_files_in_child.py",
    "model export": "integration/console/test_model_files_in_child.py",
    "model import": "integration/console/test_model_files_in_child.py",
    "model promote run-a": "integration/device/test_predictor_on_core.py",
    "run start careful": "e2e/test_custom_strategies.py",
    "run start buffered-1": "e2e/test_buffered_run.py",
    "run start cracks-1": "integration/console/test_model_files_in_child.py",
    "run start cracks-2": "e2e/test_buffered_run.py",
    "run start first task=cracks": "documents/test_task_examples.py",
    "run start first task=flower:": "e2e/test_flower_apps.py",
    "run start light": "e2e/test_partial_model.py",
    "run start pumps-1": "e2e/test_run_of_trees.py",
    "run start words-1": "e2e/test_partial_model.py",
    "run track": "integration/console/test_tracking_servers.py",
    "stats": "e2e/test_statistics_run.py",
    "task check": "integration/console/test_task_commands.py",
    "task new": "integration/console/test_wheel.py",
    "task publish": "integration/console/test_task_publishing.py",
    "task weights": "integration/console/test_wheel.py",
}


def documented_commands() -> Iterator[tuple[str, str]]:
    """Yield each ``fedgrass`` and ``make`` command that a page shows, without its comment."""
    for page in DOCUMENTS:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\$ )?(?:\.venv/bin/)?(fedgrass|make) (.*?)(?:\s+#.*)?$", line):
                    yield page.name, f"{found[1]} {found[2]}"


def words_of(command: str) -> list[str]:
    """Return the words of a command after its first, with names instead of ``<...>``."""
    return [re.sub(r"^<[^>]*>", RUN, word) for word in shlex.split(command)]
