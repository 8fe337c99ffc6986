"""The command line as a whole: help, mistakes, the options for the stack, completion by a shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgrass import __version__
from fedgrass.console import main
from fedgrass.console.deferred import Deferred
from fedgrass.console.terminal import printable
from greengrass_emulator.command.typed_options import CommandMistakeError, bind
from tests.unit.console.command_tree import commands, least_words


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of a command line that cannot be parsed."""
    with pytest.raises(SystemExit) as ended:
        main.run(words)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deplyo cloud", "fedgrass: unknown command 'deplyo': did you mean deploy?; see `fedgrass --help`"),
        ("runs --stack x", "fedgrass: `fedgrass runs` has become `fedgrass run list`"),
        (
            "deploy clod",
            "fedgrass deploy: unknown command 'clod': did you mean cloud?; see `fedgrass deploy --help`",
        ),
        (
            "queue --stack presses show",
            (
                "fedgrass queue: options such as '--stack' follow the command: show, redrive;"
                " see `fedgrass queue --help`"
            ),
        ),
        (
            "devices lst",
            "fedgrass devices: unknown command 'lst': did you mean list?; see `fedgrass devices --help`",
        ),
        (
            "devices show a b",
            "fedgrass devices show: it takes no further argument 'b'; see `fedgrass devices show --help`",
        ),
        (
            "deploy",
            (
                "fedgrass deploy: it needs a command: cloud, down, devices, component;"
                " see `fedgrass deploy --help`"
            ),
        ),
        (
            "costs --devcies 3",
            "fedgrass costs: unknown option: --devcies: did you mean --devices?; see `fedgrass costs --help`",
        ),
        (
            "costs --devices 0",
            (
                "fedgrass costs: --devices: '0' is not a whole number from 1 to 100,000,000;"
                " see `fedgrass costs --help`"
            ),
        ),
        ("costs --devices", "fedgrass costs: --devices needs a value; see `fedgrass costs --help`"),
        (
            "task weights noise",
            "fedgrass task weights: --out is required; see `fedgrass task weights --help`",
        ),
        (
            "task check",
            "fedgrass task check: TASK is required; see `fedgrass task check --help`",
        ),
        (
            "queue show --output jsn",
            (
                'fedgrass queue show: invalid value "jsn" for --output: choose from: "text", "json":'
                ' did you mean "json"?; see `fedgrass queue show --help`'
            ),
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_name(
    line: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint(line.split(), capsys) == expected


def test_the_version_and_the_help_are_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["--version"])
    assert capsys.readouterr().out == f"fedgrass {__version__}\n"
    main.run([])
    bare = capsys.readouterr().out
    main.run(["--help"])
    assert capsys.readouterr().out == bare
    assert bare.isascii()


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_option_has_an_explanation(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    main.run([*words, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: fedgrass {' '.join(words)}")
    assert shown.isascii()
    lines = shown.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  --") and "  " not in line.strip():
            assert lines[number + 1].startswith("      "), f"{line.strip()} has no explanation"


@pytest.mark.parametrize("name", [name for name in main.app() if not name.startswith("-")])
def test_the_list_of_commands_has_the_first_line_of_their_own_help(name: str) -> None:
    listed = main._COMMANDS[name][1]
    assert main.load(name).help.splitlines()[0] == listed


WITH_STACK = [
    (words, app)
    for words, app in commands()
    if "--stack" in {name for one in app.assemble_argument_collection() for name in one.names}
    and words != ("dashboard",)  # which shows several stacks, each with its own credentials
]


@pytest.mark.parametrize(
    ("words", "app"), WITH_STACK, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_on_a_stack_takes_profile_region_and_stack(
    words: tuple[str, ...], app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "before")
    monkeypatch.setenv("AWS_REGION", "before")
    seen: list[Any] = []
    monkeypatch.setattr(Deferred, "__call__", lambda _, /, *given, **options: seen.append((given, options)))
    stack = ["--stack", "presses", "--profile", "plant", "--region", "eu-west-1"]
    main.run([*least_words(words, app), *stack])
    assert (os.environ["AWS_PROFILE"], os.environ["AWS_REGION"]) == ("plant", "eu-west-1")
    assert "'presses'" in repr(seen)


def test_of_a_repeated_option_the_last_value_counts_and_lists_are_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(Deferred, "__call__", lambda _, *given, **__: seen.extend(given))
    words = ["--group", "a", "--group", "b", "--task", "x", "--task", "y", "--dry-run", "--dry-run"]
    main.run(["deploy", "devices", *words, "--watch"])
    options = seen[0]
    assert (options.group, options.task, options.dry_run) == ("b", ("x", "y"), True)
    assert options.watch_minutes == 30


@pytest.fixture(scope="module")
def completion_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return bash's script, which takes a second or two to write."""
    script = tmp_path_factory.mktemp("completion") / "fedgrass"
    main.run(["--install-completion", "--shell", "bash", "--out", str(script)])
    return script


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["fedgrass", "dep"], ["deploy"]),
        (["fedgrass", "deploy", "co"], ["component"]),
        (["fedgrass", "queue", "show", "--out"], ["--output"]),
        (["fedgrass", "queue", "show", "--output", "j"], ["json"]),
    ],
)
def test_bash_completes_commands_options_and_choices(
    typed: list[str], expected: list[str], completion_script: Path
) -> None:
    words = " ".join(f"'{word}'" for word in typed)
    code = (
        f"source {completion_script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _fedgrass;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, check=True, env={"PATH": path}
    )
    assert [word.strip() for word in done.stdout.split()] == expected


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_completion_is_added_to_the_start_of_the_shell(
    shell: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("ZSH", "ZSH_CUSTOM"):
        monkeypatch.delenv(name, raising=False)
    main.run(["--install-completion", "--shell", shell])
    script = Path(capsys.readouterr().out.splitlines()[0].removeprefix("wrote "))
    assert script.is_relative_to(tmp_path)
    assert "fedgrass" in script.read_text()
    assert "fedgrass" in (tmp_path / file).read_text() or str(script.parent) in (tmp_path / file).read_text()


WORDS = sorted(
    {word for words, _ in commands() for word in words}
    | {name for _, app in commands() for one in app.assemble_argument_collection() for name in one.names}
)


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_words_are_a_command_line_or_a_mistake_in_one_line(words: list[str]) -> None:
    try:
        bind(main.app(), words)
    except CommandMistakeError as error:
        line = printable(error)
        assert line.startswith("fedgrass")
        assert len(line.splitlines()) == 1
