"""What several test folders share: one embedded cloud per session, and patience for two shared cores."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud

PROJECT = Path(__file__).parents[1]

# Whichever test imports flwr first: it would report its use.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

# No deadline: a slow machine is not a defect. Timings belong in benchmarks/.
hypothesis.settings.register_profile("fedgrass", deadline=None, max_examples=100)
# make test-fast asks for it: the same properties with fewer examples.
hypothesis.settings.register_profile("fast", deadline=None, max_examples=20)
hypothesis.settings.load_profile("fedgrass")


# A shell that runs the tests in the background, or nohup, has them ignore these, and all that they start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
# As Ctrl-C: fixtures end what they have started. By default `timeout 300 pytest` would leave it running.
signal.signal(signal.SIGTERM, signal.default_int_handler)


# No test asks the metadata service of an EC2 instance, which botocore would do through a proxy too.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
# Tests connect to 127.0.0.1; a proxy of the developer's network cannot. Both spellings are read.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))


# Modules and tests live to the end: looking at them again and again took the collector a tenth of the quick
# tests' time.
def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# If a file of minutes begins last, the other processes wait for it. So the longest files begin first, then
# the folders whose tests start processes; the quick tests fill the rest.
LONG_FILES = (
    "test_demo_interrupted",
    "test_permissions",
    "test_chaos",
    "test_flower_apps",
    "test_demo_command",
    "test_options_of_a_device",
    "test_bad_input",
    "test_faults",
)
FOLDERS = ("e2e", "integration", "contracts", "emulator")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> tuple[int, int]:
    folder = path.relative_to(PROJECT / "tests").parts[0] if path.is_relative_to(PROJECT / "tests") else ""
    long = LONG_FILES.index(path.stem) if path.stem in LONG_FILES else len(LONG_FILES)
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS), long


@pytest.fixture(scope="session", autouse=True)
def _flower_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Flower writes an id for its telemetry there, even if that is off; later than the run that caused it."""
    os.environ["FLWR_HOME"] = str(tmp_path_factory.mktemp("flwr-home"))


@pytest.fixture(scope="session")
def embedded_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCloud]:
    """AWS on 127.0.0.1, started for the first test that asks for it."""
    with EmbeddedCloud(tmp_path_factory.mktemp("embedded-cloud")) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout."""
    return PROJECT


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime folder of the test's own; its name is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fg-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)
