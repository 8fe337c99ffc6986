"""The figures of a run's rounds, and how those of two systems compare."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """CPU seconds, since some time or per device and round."""

    all: float  # of all processes: devices, their cores, server and cloud
    devices: float  # of the devices' own processes

    def since(self, earlier: "Measurement", device_rounds: int) -> "Measurement":
        """Return what was used since an earlier measurement, per device and round."""
        return Measurement(
            (self.all - earlier.all) / device_rounds, (self.devices - earlier.devices) / device_rounds
        )


@dataclass(frozen=True)
class Figures:
    """What the rounds of one run took, without the first."""

    seconds: Sequence[float]  # of each round
    cpu: Measurement  # per device and round
    device_megabytes: float  # the largest resident memory of a device's processes
    idle_megabytes: float | None  # of a device that waits for work; None: not measured
    server_megabytes: float | None  # of the server's; None: there is no server process

    @property
    def median(self) -> float:
        """The median seconds of a round."""
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, float | None]:
        """Return the figures for the JSON line."""
        server, idle = self.server_megabytes, self.idle_megabytes
        return {
            "s": round(self.median, 3),
            "fastest_s": round(min(self.seconds), 3),
            "slowest_s": round(max(self.seconds), 3),
            "cpu_s": round(self.cpu.all, 3),
            "device_cpu_s": round(self.cpu.devices, 3),
            "device_mb": round(self.device_megabytes, 1),
            "idle_mb": None if idle is None else round(idle, 1),
            "server_mb": None if server is None else round(server, 1),
        }

    def in_words(self) -> str:
        """Return the figures for the terminal."""
        server, idle = self.server_megabytes, self.idle_megabytes
        return (
            f"{self.median:.2f} s a round ({min(self.seconds):.2f} to {max(self.seconds):.2f},"
            f" {len(self.seconds)} rounds), {self.cpu.all:.2f} CPU seconds per device and round, of which"
            f" {self.cpu.devices:.2f} on the device,"
            f" {self.device_megabytes:.0f} MB on a device, "
            + ("" if idle is None else f"{idle:.0f} MB when idle, ")
            + ("no server" if server is None else f"{server:.0f} MB on the server")
        )


def figures_of_rounds(
    stamps: Sequence[float],
    cpu: Measurement,
    *,
    device_megabytes: float,
    server_megabytes: float | None,
    idle_megabytes: float | None = None,
) -> Figures:
    """Return the figures of rounds from the times between them.

    Args:
        stamps: seconds, one more than there are rounds; the second one ends the first round.
        cpu: per device and round.
        device_megabytes: of the device that had most.
        server_megabytes: None: there is no server process.
        idle_megabytes: of a device that waits for work.

    Raises:
        ValueError: there is no round.
    """
    if len(stamps) < 2:  # noqa: PLR2004 - the ends of one round
        message = f"{len(stamps)} times do not make a round: measure at least one after the first"
        raise ValueError(message)
    seconds = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    return Figures(seconds, cpu, device_megabytes, idle_megabytes, server_megabytes)


def times_as_fast(figures: Mapping[str, Figures], baseline: str) -> dict[str, float]:
    """Return for each other system how many times the median round of ``baseline`` is as long as its own."""
    slow = figures[baseline].median
    return {name: slow / one.median for name, one in figures.items() if name != baseline}
