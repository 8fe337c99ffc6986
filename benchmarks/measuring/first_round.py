"""A testbed from nothing to its first closed round, part by part.

    python -m benchmarks.measuring.first_round [--devices 6] [--since SECONDS]

The steps are those of fedgrass.local.testbed. Needs only what ``fedgrass demo`` needs; the last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import package
from components.trainer.tasks.digits import Digits
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.local_fleet import Fleet
from fedgrass.local.testbed import build_trainer, thing_names
from greengrass_emulator.core.profiles import profile_named

_SECONDS = 120.0  # that the devices, and the round, may take
_POLL_SECONDS = 0.1
_FLEET, _RUN = "fedgrass", "first"


class Parts:
    """The seconds of each part, in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self.seconds: dict[str, float] = {}

    def done(self, part: str) -> None:
        """Record that a part has ended; the next one begins."""
        now = self._clock()
        self.seconds[part] = round(now - self._since, 3)
        self._since = now


def measure(folder: Path, devices: int) -> dict[str, float]:
    """Return the seconds of each part."""
    parts = Parts()
    build, functions = build_trainer(folder / "build"), folder / "build" / "cloud_functions.zip"
    package.build_functions(functions)
    parts.done("build_s")
    with EmbeddedCloud(folder / "cloud") as cloud:
        parts.done("cloud_s")
        given = {"FleetName": _FLEET, "DeviceRoleAlias": "no"}
        outputs = cloud.deploy("fedgrass", package.ROOT / "template.yaml", functions, given)
        parts.done("deploy_s")
        with Fleet(cloud, outputs, folder / "cores", profile_named("classic")) as fleet:
            configuration = {"fleet": _FLEET, "python": sys.executable}
            fleet.start(build, dict.fromkeys(thing_names(devices), configuration))
            operator = Operator(cloud.client, outputs)
            _wait(lambda: len(operator.devices()) == devices, "not every device sent a heartbeat")
            parts.done("cores_s")
            operator.start(_RUN, RunSettings(task="digits", rounds=1), Digits().initial_weights(seed=0))
            _wait(lambda: operator.run(_RUN).state is not RunState.RUNNING, "the round did not close")
            parts.done("first_round_s")
            if (run := operator.run(_RUN)).state is not RunState.SUCCEEDED:
                raise FedgrassError(run.reason)
    return parts.seconds


def _wait(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            message = f"{failure} within {_SECONDS:.0f} s"
            raise FedgrassError(message)
        time.sleep(_POLL_SECONDS)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=6)
    parser.add_argument("--since", type=float, help="when this was started, in seconds since the epoch")
    options = parser.parse_args()
    imports = {"imports_s": round(time.time() - options.since, 3)} if options.since else {}
    with tempfile.TemporaryDirectory(prefix="fedgrass-start-") as folder:
        print(json.dumps({**imports, **measure(Path(folder), options.devices)}))


if __name__ == "__main__":
    main()
