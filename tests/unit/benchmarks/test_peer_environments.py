"""Where the peers are installed, and that they may be missing."""

from pathlib import Path

from benchmarks.peers import peer_environments
from benchmarks.peers.peer_environments import PeerEnvironment


def test_an_installed_peer_has_its_version_and_its_programs(tmp_path: Path) -> None:
    packages = tmp_path / ".venv-flower" / "lib" / "python3.11" / "site-packages"
    (packages / "flwr-1.42.0.dist-info").mkdir(parents=True)
    found = peer_environments.flower(tmp_path)
    assert found == PeerEnvironment(tmp_path / ".venv-flower" / "bin", "1.42.0")
    assert found.python == tmp_path / ".venv-flower" / "bin" / "python"


def test_a_peer_that_is_not_installed_is_none(tmp_path: Path) -> None:
    assert peer_environments.flower(tmp_path) is None
    assert peer_environments.flare(tmp_path) is None
