"""Every command that README and the pages show is run over one small site, and its output compared.

A command is run as a page shows it, after the replacements of _HERE. The exceptions are tables, whose every
entry has to apply to a command of the pages: _REFUSED_HERE, which are run until the embedded cloud refuses
them, and _ELSEWHERE, which other tests run.
"""

import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import package
from fedgrass.console.main import parse
from tests.documents.documented_commands import Shown, commands_of, inline_commands_of, matches
from tests.e2e.pages_site import Done, Site, cancel_runs, free_name, open_site, run, run_for, train

pytestmark = pytest.mark.timeout(240)

_DOCS = package.ROOT / "docs"
_PAGES = [package.ROOT / "README.md", *sorted(set(_DOCS.glob("*.md")) - {_DOCS / "commands.md"})]

# What stands in the pages for a name of the reader's own, or for a larger fleet -> what it is here.
# Also in the output that a page shows.
_HERE = {
    "<run>/5": "digits-1/3",
    "digits-1/5": "digits-1/3",
    "run-a/12": "digits-2/2",
    "again/3": "digits-1/3",
    "of run again,": "of run digits-1,",
    "device-2, device-3": "…",  # chosen at random
    "task=cracks": "task=digits",
    'shared=["head.*"]': 'shared=["7.*"]',
    "count=3": "count=2",
    "count=500": "count=3",
    "buffer_size=10 in_flight=30": "buffer_size=2 in_flight=2",
    "in_flight=4": "in_flight=2",
    "--path docs": f"--path {package.ROOT}/docs",
    # The servers of these sinks: tests/integration/console/test_tracking_servers.py.
    "--sink mlflow:http://127.0.0.1:5000": "",
    "--sink otlp:http://127.0.0.1:4318": "",
    "--task cracks selection": "--task digits --minimum-devices 3 selection",
    "stats start look-1 --task cracks": "stats start look-1 --task digits --minimum-devices 3",
    "stats start look-2 --task cracks": "stats start look-2 --task digits --minimum-devices 3",
    "stats start first-look --task cracks": "stats start first-look --task digits --minimum-devices 3",
    # A second stack in the same account; the embedded cloud builds for the processor that it runs on.
    "deploy cloud": "deploy cloud --stack presses",
    "deploy down": "deploy down --stack presses",
    "--account 123456789012": "--account 000000000000",
    "in account 123456789012": "in account 000000000000",
    " for x86_64": "",
    "fedgrass (AWS": "presses (AWS",
    "'fedgrass'": "'presses'",
    "8 artifacts and their bucket": "… artifacts",  # two stacks share the bucket
    "fedgrass-": "presses-",
    # There is no terminal to ask.
    "forget press-7": "forget press-7 --yes",
    "fleet remove": "fleet remove --yes",
    "convert-pickle": "convert-pickle --yes",
}

_NO_GREENGRASS = "does not support"  # the message of the embedded cloud, which has no role aliases either
# Run here until they are refused: the command as a regular expression -> the reason.
_REFUSED_HERE = {
    "deploy component .*": _NO_GREENGRASS,
    "deploy devices .*": _NO_GREENGRASS,
    "fleet provision .*": _NO_GREENGRASS,
    "fleet remove .*": _NO_GREENGRASS,
    "flower add .*": _NO_GREENGRASS,
    r"task publish \S+ --version \S+( --remove)?": _NO_GREENGRASS,
    "deploy down": "no terminal to ask",
    "run start cracks-1 .*": "was imported as a model of the task 'cracks'",  # and no device here has cracks
}

# Beginning of the command -> why it is not run here, and the test that runs it.
_ELSEWHERE = {
    "demo": ("starts a site of its own", "tests/e2e/test_demo_command.py"),
    "simulate --task mnist": (
        "needs the files of MNIST",
        "tests/integration/simulation/test_same_bytes.py",
    ),
    "simulate --fleet": (
        "needs a task and a fleet of the reader's own",
        "tests/documents/test_simulation_fleets_page.py",
    ),
    "simulate --devices 100 --fleet": (
        "needs a fleet file",
        "tests/documents/test_simulation_fleets_page.py",
    ),
    "simulate --trace": ("needs a trace", "tests/documents/test_simulation_fleets_page.py"),
    "simulate --grid": ("needs a grid file", "tests/documents/test_simulation_grids_page.py"),
    "swarm": ("starts a cloud of its own", "tests/integration/console/test_swarm.py"),
    "dashboard": ("serves until Ctrl-C", "tests/e2e/test_dashboard_page.py"),
    "core deploy": ("needs a running core", "tests/e2e/test_documented_component.py"),
    "flower run": ("needs devices with the app", "tests/e2e/test_flower_apps.py"),
    "run start first task=flower:": ("needs devices with the app", "tests/e2e/test_flower_apps.py"),
    "run start pumps-1": ("needs devices with XGBoost", "tests/e2e/test_run_of_trees.py"),
    "run start careful": ("needs a cloud with the strategy", "tests/e2e/test_custom_strategies.py"),
    "run start words-1": ("needs devices with a partial task", "tests/e2e/test_partial_model.py"),
    "model export cracks-1/5 --format onnx": (
        "needs the extra onnx",
        "tests/unit/local/model_files/test_onnx_files.py",
    ),
    "model export digits-1/5 --format onnx": (
        "needs the extra onnx",
        "tests/unit/local/model_files/test_onnx_files.py",
    ),
    "task check vibration_task:": ("trains its base first", "tests/documents/test_partial_examples.py"),
    "--install-completion": ("changes the shell's files", "tests/unit/console/test_command_line.py"),
}

# Output that this site cannot have -> why.
_OTHER_OUTPUT = {
    "devices logs press-1 --lines 3": "the page shows a run that failed",
    "flower check my-app": "the page shows another app",
}


def _is_complete(shown: Shown) -> bool:
    """Return whether a command within the text can be run: it has no placeholder, and lacks nothing."""
    if re.search(r"\b[A-Z_]+\b|\.\.\.|<", shown.command):
        return False
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        return callable(parse(shown.words))
    return False


def _documented() -> list[Shown]:
    """Return the commands in the order of the pages, of equal ones without output only the first."""
    found = [shown for page in _PAGES for shown in commands_of(page)]
    found += [shown for page in _PAGES for shown in inline_commands_of(page) if _is_complete(shown)]
    kept: dict[object, Shown] = {}
    for shown in found:
        if shown.command.startswith("fedgrass ") and "--help" not in shown.command:
            kept.setdefault((shown.command, shown.output), shown)
    return list(kept.values())


def _words(shown: Shown) -> str:
    return shown.command.removeprefix("fedgrass ")


_ALL = _documented()
_RUN = [shown for shown in _ALL if not _words(shown).startswith(tuple(_ELSEWHERE))]


def _adapted(text: str) -> str:
    for there, here in _HERE.items():
        text = text.replace(there, here)
    return text


# In this order: what the pages show while nothing else was done, what needs idle devices, what changes the
# site for others.
_ORDER = (
    r"models\.md model promote .*",
    r"models\.md model rollback .*",
    r"models\.md model list .*",
    r"\S+ run start next .*",
    r"\S+ stats .*",
    r"\S+ deploy cloud --account .*",
    r"\S+ (?!fleet remove|deploy down --yes).*",
    r".*",
)
_ALONE = 4  # of these, before there is a second run


def _turn(shown: Shown) -> int:
    return next(turn for turn, one in enumerate(_ORDER) if re.fullmatch(one, f"{shown.page} {_words(shown)}"))


@pytest.fixture(scope="module")
def first_site() -> Iterator[Site]:
    with open_site() as site:
        train(site, "digits-1")
        yield site


@pytest.fixture(scope="module")
def site(first_site: Site) -> Site:
    train(first_site, "digits-2")
    return first_site


@pytest.fixture
def folder(first_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the author's files, in which the command runs; runs that it starts are cancelled."""
    shutil.copytree(first_site.files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    cancel_runs(first_site)


def _prepared(shown: Shown, site: Site, folder: Path) -> list[str]:
    """Return the words of a command as they are here, after what must be there, and what must not."""
    words = shlex.split(_adapted(_words(shown)))
    match words:
        case ["run" | "stats", "start", name, *_]:
            words[2] = free_name(site, name)
        case ["run", "pause" | "resume" | "next" | "retry" | "cancel" as action, *_]:
            words[2] = run_for(site, action)
        case ["model", "rollback", *_]:
            for model in ("digits-1/2", "digits-1/3"):
                assert run("model", "promote", model, "--alias", "production").code == 0
        case ["task", "new", name]:
            for file in folder.glob(f"*{name}.py"):
                file.unlink()
        case ["watch", *_]:
            words += ["--seconds", "1"]
    for option, value in itertools.pairwise(words):
        if option == "--out":
            (folder / value).unlink(missing_ok=True)
    return words


def _refusal(shown: Shown) -> str | None:
    found = (reason for one, reason in _REFUSED_HERE.items() if re.fullmatch(one, _words(shown)))
    return next(found, None)


_IN_TURN = sorted(_RUN, key=_turn)


@pytest.mark.parametrize("shown", _IN_TURN, ids=lambda shown: f"{shown.page}: {_words(shown)}")
def test_a_command_of_a_page_is_done_and_prints_what_the_page_shows(
    shown: Shown, folder: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    site: Site = request.getfixturevalue("first_site" if _turn(shown) < _ALONE else "site")
    done = run(*_prepared(shown, site, folder))
    of_child = capfd.readouterr()
    done = Done(done.code, done.out + of_child.out, done.err + of_child.err)
    if refusal := _refusal(shown):
        assert done.code == 1, done
        assert refusal in done.err
        return
    assert done.code == 0, done
    if shown.output and _words(shown) not in _OTHER_OUTPUT:
        assert matches(tuple(_adapted(line) for line in shown.output), done.out), done.out


# Commands whose JSON another section of docs/json.md describes.
_SECTIONS = {
    **{f"run {action}": "run show" for action in ("start", "pause", "resume", "retry", "next", "cancel")},
    "report": "run report",
    "devices": "devices list",
    "stats start": "stats show",
    "deploy cloud": "Commands that change something",
    "deploy down": "Commands that change something",
    "queue redrive": "Commands that change something",
}
# Objects whose names a run, a task or a device chose.
_FREE = {"settings", "attributes", "thing_attributes", "metrics", "features", "history"}


def _path(shown: Shown) -> str:
    """Return the words that name a command."""
    return " ".join(itertools.takewhile(re.compile("[a-z][a-z-]*$").match, shown.words[:2]))


def _json_commands() -> dict[str, Shown]:
    """Return one command of each kind that prints one JSON object, by its words."""
    found: dict[str, Shown] = {}
    for shown in _IN_TURN:
        if "output" in parse(shown.words).bound.signature.parameters and not _refusal(shown):
            found.setdefault("run start --dry-run" if "--dry-run" in shown.words else _path(shown), shown)
    return {path: shown for path, shown in found.items() if path not in {"watch", "run follow"}}  # lines


def _names(value: object) -> set[str]:
    """Return the names of all fields in a JSON value, without those that were chosen freely."""
    if isinstance(value, list):
        return set().union(*map(_names, value))
    if not isinstance(value, dict):
        return set()
    parts = (part for name, part in value.items() if name not in _FREE or isinstance(part, list))
    return value.keys() | set().union(*map(_names, parts))


def _described(path: str) -> str:
    """Return the section of docs/json.md about a command, with the pages that it refers to."""
    sections = re.split(r"^## ", (_DOCS / "json.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = re.compile(rf"\b{_SECTIONS.get(path, path)}(?![\w ]*-)\b")
    section = next(one for one in sections[1:] if named.search(one.partition("\n")[0]))
    linked = {page for page in re.findall(r"\]\((\w+\.md)", section) if page != "costs.md"}
    for other in set(re.findall(r"`(?:fedgrass )?([a-z]+ list)`", section)) - {path}:
        section += _described(other)
    return section + "".join((_DOCS / page).read_text(encoding="utf-8") for page in sorted(linked))


@pytest.mark.parametrize(("path", "shown"), _json_commands().items(), ids=_json_commands())
def test_a_command_of_a_page_prints_one_json_object_whose_fields_are_documented(
    path: str, shown: Shown, site: Site, folder: Path
) -> None:
    words = _prepared(shown, site, folder)
    words = [*words, *([] if "--output" in words else ["--output", "json"])]
    done, until = run(*words), time.monotonic() + 60
    while "there is no device" in done.err and time.monotonic() < until:
        time.sleep(1)  # another command has made the stack forget it: its next heartbeat registers it again
        done = run(*words)
    assert done.out, done
    result = json.loads(done.out)
    assert isinstance(result, dict)
    assert done.code == (1 if path == "doctor" and result["problems"] else 0), done
    described = _described(path)
    assert [name for name in sorted(_names(result)) if f"`{name}`" not in described] == []


def test_every_entry_of_the_tables_is_about_a_command_of_the_pages() -> None:
    commands = [_words(shown) for shown in _ALL]
    assert [one for one in _ELSEWHERE if not any(command.startswith(one) for command in commands)] == []
    assert [one for one in _REFUSED_HERE if not any(re.fullmatch(one, command) for command in commands)] == []
    assert [one for one in _OTHER_OUTPUT if one not in commands] == []
    shown = "\n".join("\n".join([one.command, *one.output]) for one in _ALL)
    assert [there for there in _HERE if there not in shown] == []


def test_what_is_not_run_here_is_run_by_the_named_test() -> None:
    assert [test for _, test in _ELSEWHERE.values() if not (package.ROOT / test).is_file()] == []
