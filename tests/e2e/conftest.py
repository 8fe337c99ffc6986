"""Testbeds for the end-to-end tests: cloud, fleet, operator."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from components.trainer.tasks.noise import Noise
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.runs.live_view import Watcher
from fedgrass.federation.messages import RoundChange
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.e2e.processes import wait_until

FLEET = "greenhouse"  # not the default, on which nothing may depend


@dataclass
class Watched:
    """A testbed with a light task, and all messages on its topics."""

    testbed: Testbed
    heard: list[tuple[str, bytes]] = field(default_factory=list)

    def watcher(self) -> Watcher:
        """Return a context manager that records all messages on the testbed's topics."""
        return Watcher(
            FLEET, self.testbed.observer, lambda topic, payload: self.heard.append((topic, payload))
        )

    def start(self, name: str, **settings: object) -> None:
        """Start a run of the noise task."""
        defaults = {"task": "noise", "rounds": 1, "deadline_seconds": 60, "evaluate_last": False}
        chosen = parse_settings({**defaults, **settings})
        self.testbed.operator.start(name, chosen, Noise().initial_weights(seed=1))

    def ended(self, name: str) -> Run:
        """Return the run once it has ended."""
        wait_until(
            lambda: self.testbed.operator.run(name).state is not RunState.RUNNING, f"the end of {name}"
        )
        return self.testbed.operator.run(name)

    def rounds(self, name: str) -> list[RoundRecord]:
        """Return the rounds of a run so far."""
        return list(self.testbed.operator.rounds(self.testbed.operator.run(name)))

    def lines(self, run: str) -> list[str]:
        """Return the lines that were published about a run: ``<device> <text>``."""
        topic = f"fedgrass/{FLEET}/rounds/{run}"
        changes = [msgspec.json.decode(said, type=RoundChange) for on, said in self.heard if on == topic]
        return [f"{change.device} {change.text}".strip() for change in changes]

    def wait_for_line(self, run: str, *words: str) -> str:
        """Return the first line of a run that has all ``words``."""

        def matching() -> list[str]:
            return [line for line in self.lines(run) if all(word in line for word in words)]

        try:
            wait_until(matching, f"a line with {words}")
        except AssertionError as error:
            error.add_note(f"heard instead: {self.lines(run)}")
            raise
        return matching()[0]

    def announcement(self, thing: str, run: str) -> dict[str, object]:
        """Return the latest work that a device was given in a run."""
        topic = f"fedgrass/{FLEET}/clients/{thing}/announce"

        def found() -> list[dict[str, object]]:
            said = [json.loads(payload) for on, payload in self.heard if on == topic]
            return [words for words in said if words["type"] == "work" and words["run"] == run]

        wait_until(found, f"an announcement of {run} to {thing}")
        return found()[-1]


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Watched]]:
    """Return a function that starts a testbed with the noise task; all stop at the end of the module."""
    with ExitStack() as stack:

        def make(devices: int, parameters: dict[str, str] | None = None, **configuration: object) -> Watched:
            folder = tmp_path_factory.mktemp("testbed")
            chosen = {"tasks": {"noise": {}}, "heartbeat_seconds": 5, **configuration}
            things = dict.fromkeys(thing_names(devices), chosen)
            testbed = stack.enter_context(
                open_testbed(folder, things, fleet_name=FLEET, parameters=parameters)
            )
            watched = Watched(testbed)
            stack.enter_context(watched.watcher())
            # The watcher is subscribed when it receives its own message.
            wait_until(lambda: _echo(watched), "the watcher's own echo")
            return watched

        yield make


def _echo(watched: Watched) -> bool:
    topic = f"fedgrass/{FLEET}/echo"
    watched.testbed.cloud.client("iot-data").publish(topic=topic, qos=1, payload=b"{}")
    time.sleep(0.05)
    return any(on == topic for on, _ in watched.heard)


@pytest.fixture
def folder_of() -> Callable[[Watched, str], Path]:
    """Return a function that gives a core's folder."""
    return lambda watched, thing: watched.testbed.folder / "cores" / thing
