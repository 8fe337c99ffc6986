"""The nucleus on which a component is tested: Nucleus Lite, unless a test names another."""

import pytest

from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile

# Nucleus Lite restarts a component whose configuration a deployment has changed.
ON_CLASSIC = pytest.mark.parametrize("profile", [CLASSIC], ids=["classic"])


@pytest.fixture
def profile() -> Profile:
    return LITE
