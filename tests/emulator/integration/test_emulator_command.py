"""``greengrass-emulator`` runs components on a developer's machine, without a cloud, and leaves nothing."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from greengrass_emulator.faults.fault_state import FAULTS
from tests.emulator.core_device import is_alive
from tests.emulator.local_core import eventually, recipe, write_recipe

PROJECT = Path(__file__).parents[3]
EXAMPLE = PROJECT / "docs" / "examples" / "thermostat" / "com.example.Thermostat.yaml"
THERMOSTAT = "com.example.Thermostat"
SECONDS = 60
PYTHON = json.dumps({"python": sys.executable})
STAYS = "echo $$ > pid; exec sleep 1000"
COMPONENT = "com.example.Probe"


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition()`` is true; fail with ``what`` if it stays false."""
    try:
        eventually(condition, SECONDS)
    except AssertionError as error:
        error.add_note(f"expected: {what}")
        raise


class Laptop:
    """A folder in which a developer runs commands."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.runtime = runtime
        self.output = folder / "output.txt"
        self.core = folder / "greengrass-core" / "local-core"
        self._command = [sys.executable, "-m", "greengrass_emulator"]
        self._environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(PROJECT)}

    def do(self, *arguments: str) -> str:
        """Run a command that has to succeed; return its output."""
        code, said = self.attempt(*arguments)
        assert code == 0, said
        return said

    def attempt(self, *arguments: str) -> tuple[int, str]:
        """Run a command; return its exit code and its output, which never has a traceback."""
        ended = subprocess.run(
            [*self._command, *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        said = ended.stdout + ended.stderr
        assert "Traceback" not in said
        return ended.returncode, said

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a core in the background; returns once it is up."""
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [*self._command, "run", *arguments],
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        try:
            self.wait_for_line(" is running in ", process)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(SECONDS)
        assert "Traceback" not in self.said()

    def said(self) -> str:
        return self.output.read_text()

    def wait_for_line(self, text: str, process: subprocess.Popen[bytes] | None = None) -> None:
        wait_until(
            lambda: text in self.said() or (process is not None and process.poll() is not None),
            f"{text!r} in {self.said()}",
        )
        assert text in self.said()

    def messages(self) -> list[tuple[str, str]]:
        file = self.core / "iot_core_messages.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [(line["topic"], line["payload"]) for line in lines]

    def component_pid(self) -> int:
        file = self.core / "work" / COMPONENT / "pid"
        wait_until(lambda: file.exists() and file.read_text().strip(), str(file))
        return int(file.read_text())

    def left(self) -> list[Path]:
        """Return the files of the runtime folder: the sockets and locks of cores."""
        return [path for path in self.runtime.rglob("*") if path.is_file() or path.is_socket()]

    def recipe(self, run: str, **changes: Any) -> str:
        return str(write_recipe(self.folder, recipe(run, **changes)))


@pytest.fixture
def laptop(tmp_path: Path, runtime: Path) -> Laptop:
    return Laptop(tmp_path, runtime)


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_the_example_of_the_documentation_runs_as_documented(laptop: Laptop, profile: str) -> None:
    with laptop.running("--recipe", str(EXAMPLE), "--config", PYTHON, "--profile", profile) as core:
        laptop.wait_for_line("heats up to 21 degrees")
        wait_until(lambda: ("home/heater", "waiting") in laptop.messages(), "the component to listen")
        laptop.do("publish", "home/temperature", "19")
        wait_until(lambda: ("home/heater", "on") in laptop.messages(), "the heater to be on")
        assert "deployment" in laptop.do("configure", THERMOSTAT, '{"target": 18}')
        laptop.wait_for_line("local-core heats up to 18 degrees")

        listed = laptop.do("list")
        assert f"local-core  {profile}  pid {core.pid}  {laptop.core}" in listed
        assert f"{THERMOSTAT} 1.0.0  RUNNING" in listed

        assert laptop.do("stop") == "local-core has stopped\n"
        assert core.wait(SECONDS) == 0
    assert f"{THERMOSTAT} | heater on" in laptop.said()
    assert laptop.left() == []
    assert laptop.do("list") == "no core is running here\n"


def test_faults_are_injected_shown_and_cleared(laptop: Laptop) -> None:
    with laptop.running("--recipe", str(EXAMPLE), "--config", PYTHON):
        laptop.wait_for_line("heats up to 21 degrees")
        wait_until(lambda: ("home/heater", "waiting") in laptop.messages(), "the component to listen")
        assert "slow-uplink" in laptop.do("inject")
        laptop.do("inject", "broker-cut")
        laptop.do("inject", "slow-uplink", "--amount", "1000", "--seconds", "600")
        laptop.do("publish", "home/temperature", "22")
        listed = laptop.do("list")
        assert "fault broker-cut" in listed
        assert "fault slow-uplink 1000" in listed
        assert ("home/heater", "off") not in laptop.messages()

        laptop.do("inject", "broker-cut", "--clear")
        wait_until(lambda: ("home/heater", "off") in laptop.messages(), "what classic kept in its session")
        laptop.do("inject", "ipc-restart")
        laptop.wait_for_line("the nucleus closed the connection")
        wait_until(lambda: laptop.said().count("heats up to 21 degrees") == 2, "the component's restart")
        code, said = laptop.attempt("inject", "earthquake")
        assert (code, "choose one of broker-cut" in said) == (1, True)


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_every_fault_can_be_injected_and_cleared_from_the_command_line(laptop: Laptop, profile: str) -> None:
    with laptop.running("--recipe", laptop.recipe(STAYS), "--profile", profile):
        laptop.component_pid()
        lasting = [name for name, fault in FAULTS.items() if fault.lasts]
        for name, fault in FAULTS.items():
            amount = ("--amount", str(fault.default or 1000)) if fault.unit else ()
            assert laptop.do("inject", name, *amount) == f"{name} injected\n"
        listed = laptop.do("list")
        assert all(f"fault {name}" in listed for name in lasting)
        assert len(lasting) >= 7
        for name in lasting:
            assert laptop.do("inject", name, "--clear") == f"{name} cleared\n"
        assert "    fault " not in laptop.do("list")
        for once in set(FAULTS) - set(lasting):
            code, said = laptop.attempt("inject", once, "--clear")
            assert (code, "happens once" in said) == (1, True)
        code, said = laptop.attempt("inject", "slow-uplink")
        assert (code, "needs an amount in bytes/s" in said) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_core_and_leaves_nothing_behind(laptop: Laptop, number: signal.Signals) -> None:
    with laptop.running("--recipe", laptop.recipe(STAYS)) as core:
        pid = laptop.component_pid()
        core.send_signal(number)
        assert core.wait(SECONDS) == 0
    assert not is_alive(pid)
    assert laptop.left() == []


def test_a_core_that_was_killed_is_noticed_and_its_name_is_free_again(laptop: Laptop) -> None:
    with laptop.running("--recipe", laptop.recipe(STAYS)) as core:
        pid = laptop.component_pid()
        core.kill()
        core.wait(SECONDS)
        wait_until(lambda: not is_alive(pid), "the component to die with its core")
    assert len(laptop.left()) == 2
    assert "was killed; its socket has been removed" in laptop.do("list")
    assert laptop.left() == []
    with laptop.running("--recipe", laptop.recipe(STAYS)):
        assert "local-core  classic" in laptop.do("list")


def test_two_cores_run_side_by_side_under_two_names_only(laptop: Laptop, tmp_path: Path) -> None:
    other = Laptop(tmp_path / "other", laptop.runtime)
    other.folder.mkdir()
    with laptop.running("--recipe", laptop.recipe(STAYS)):
        code, said = laptop.attempt("run", "--recipe", laptop.recipe(STAYS))
        assert (code, "a core of this name is already running" in said) == (1, True)
        with other.running("--recipe", other.recipe(STAYS), "--thing", "second"):
            code, said = laptop.attempt("publish", "a", "b")
            assert (code, "--thing: local-core, second" in said) == (1, True)
            laptop.do("publish", "a", "b", "--thing", "second")
            laptop.do("stop", "second")
        assert "local-core" in laptop.do("list")


def test_the_control_socket_is_its_owner_s_alone_and_survives_garbage(laptop: Laptop) -> None:
    with laptop.running("--recipe", laptop.recipe(STAYS)):
        (path,) = (path for path in laptop.left() if path.is_socket())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        for garbage in (
            b"\xff\n",
            b"{}\n",
            b'{"do": "deploy", "recipes": [7], "artifacts": ""}\n',
            b"no end",
        ):
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(SECONDS)
                link.connect(str(path))
                link.sendall(garbage)
                link.shutdown(socket.SHUT_WR)
                answer = link.recv(65_536)
            assert b"this is not a valid request" in answer or not garbage.endswith(b"\n")
        assert "RUNNING" in laptop.do("list")
    assert not path.parent.exists()
    path.parent.mkdir()
    path.parent.chmod(0o755)
    code, said = laptop.attempt("list")
    assert (code, "is not a folder that only you can open" in said) == (1, True)


def test_a_new_version_that_fails_is_rolled_back_on_a_running_core(laptop: Laptop) -> None:
    with laptop.running("--recipe", laptop.recipe(STAYS)):
        laptop.component_pid()
        code, said = laptop.attempt("deploy", "--recipe", laptop.recipe("exit 7", ComponentVersion="2.0.0"))
        assert code == 1
        assert "FAILED_ROLLBACK_COMPLETE" in said
        assert f"{COMPONENT} 1.0.0  RUNNING" in laptop.do("list")
        assert "run ended with exit code 7" in laptop.said()
        laptop.do("deploy", "--remove", COMPONENT)
        assert COMPONENT not in laptop.do("list")


def test_several_components_are_started_in_the_order_in_which_they_need_each_other(laptop: Laptop) -> None:
    needs = {"com.example.Needed": {"VersionRequirement": "^1.0.0"}}
    needing = laptop.recipe("true", ComponentDependencies=needs)
    needed = laptop.recipe("echo {configuration:/word}", name="com.example.Needed", configuration={"word": 1})
    config = json.dumps({"com.example.Needed": {"word": "hello"}})
    said = laptop.do("run", "--recipe", needing, "--recipe", needed, "--config", config, "--once")
    assert "com.example.Needed | hello" in said


@pytest.mark.parametrize(("run", "code"), [("echo done", 0), ("exit 1", 1)])
def test_once_ends_with_the_components_and_tells_whether_they_succeeded(
    laptop: Laptop, run: str, code: int
) -> None:
    assert laptop.attempt("run", "--recipe", laptop.recipe(run), "--once")[0] == code
    assert laptop.left() == []


def test_without_a_cloud_credentials_are_refused_with_a_reason(laptop: Laptop) -> None:
    ask = (
        "import os, urllib.error, urllib.request as r\n"
        "q = r.Request(os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI'],"
        " headers=dict(Authorization=os.environ['SVCUID']))\n"
        "try: r.urlopen(q)\n"
        "except urllib.error.HTTPError as e: print(e.code, e.read().decode())\n"
    )
    needs = {"aws.greengrass.TokenExchangeService": {"VersionRequirement": "^2.0.0"}}
    (laptop.folder / "ask.py").write_text(ask)
    run = f"{sys.executable} {laptop.folder}/ask.py"
    said = laptop.do("run", "--recipe", laptop.recipe(run, ComponentDependencies=needs), "--once")
    assert "this core has no cloud behind it" in said
    assert "--aws" in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "--recipe", "absent.yaml"], "recipe absent.yaml: No such file"),
        (["run", "--recipe", "RECIPE", "--config", "{no"], "--config '{no' is not valid JSON"),
        (["run", "--recipe", "RECIPE", "--config", "absent.json"], "absent.json cannot be read"),
        (["run", "--recipe", "RECIPE", "--secrets", '{"door": 1}'], "door must be a string"),
        (["run", "--recipe", "RECIPE", "--thing", "a/b"], "thing name 'a/b' must be"),
        (
            ["run", "--recipe", "RECIPE", "--root", "/proc/none"],
            "/proc/none, the core's folder, cannot be created",
        ),
        (["stop"], "no core is running here: start one"),
        (["stop", "absent"], "no core absent is running here: there are none"),
        (["stop", "--thing", "absent"], "no core absent is running here: there are none"),
        (["inject", "--clear"], "--clear, --amount and --seconds need a fault"),
        (["deploy"], "there is nothing to deploy"),
        (["publish", "a/+", "x", "--thing", "absent"], "no core absent"),
    ],
)
def test_a_mistake_is_reported_in_one_line(laptop: Laptop, arguments: list[str], complaint: str) -> None:
    written = laptop.recipe("true")
    code, said = laptop.attempt(*(written if one == "RECIPE" else one for one in arguments))
    assert code == 1
    assert complaint in said
    assert len(said.splitlines()) == 1
    assert laptop.left() == []


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_a_thing_with_a_colon_in_its_name_has_a_core_like_any_other(laptop: Laptop, profile: str) -> None:
    (laptop.folder / "found.py").write_text("print('found', end='')")
    run = f"cp {laptop.folder}/found.py . && {sys.executable} -m found"
    file = laptop.recipe(run, lifecycle={"Setenv": {"PYTHONPATH": "{work:path}"}})
    laptop.do("run", "--recipe", file, "--thing", "line:2", "--profile", profile, "--once")
    (core,) = (laptop.folder / "greengrass-core").iterdir()
    assert (core / "logs" / f"{COMPONENT}.log").read_text() == "found"
    assert ":" not in core.name
