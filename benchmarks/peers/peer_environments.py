"""Where a peer is installed: in its own environment, which ``make .venv-flower/.installed`` creates.

A peer that is missing is not measured: its figures are None.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class PeerEnvironment:
    """An environment that has a peer."""

    bin: Path  # the folder of its programs
    version: str  # of the peer

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.bin / "python"


def flower(root: Path = ROOT) -> PeerEnvironment | None:
    """Return the environment of Flower, or None if it is not installed."""
    return _environment(root / ".venv-flower", "flwr")


def flare(root: Path = ROOT) -> PeerEnvironment | None:
    """Return the environment of NVIDIA FLARE, or None if it is not installed."""
    return _environment(root / ".venv-flare", "nvflare")


def _environment(folder: Path, package: str) -> PeerEnvironment | None:
    for found in sorted(folder.glob(f"lib/python3*/site-packages/{package}-*.dist-info")):
        version = found.name.removeprefix(f"{package}-").removesuffix(".dist-info")
        return PeerEnvironment(folder / "bin", version)
    return None
