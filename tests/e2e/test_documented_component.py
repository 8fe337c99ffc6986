"""The test in the documentation for developers of components passes."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "thermostat"


def test_a_developer_s_own_test_of_the_example_component_passes(runtime: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", str(EXAMPLE)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "2 passed" in ended.stdout, ended.stdout + ended.stderr
