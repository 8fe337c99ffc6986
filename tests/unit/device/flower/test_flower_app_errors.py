"""An app that cannot be loaded is refused with what to do about it; apps do not see each other's modules."""

import importlib.metadata
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

import flwr

from components.runtime.component_errors import ConfigurationError
from components.trainer.flower.app_import import flower_log_level
from components.trainer.tasks.registry import is_current, load_task
from tests.unit.device.flower.small_apps import (
    MEAN_APP,
    MESSAGE_APP,
    app_task,
    release,
    task_of,
    train,
    write_app,
)
from tests.unit.device.flower.small_pyproject import PYPROJECT

MODEL = {"w": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("client_app", "expected"),
    [
        (
            "app = 3",
            "the clientapp 'small.client_app:app' of the app's pyproject.toml is a int, not a ClientApp",
        ),
        (
            "from flwr.clientapp import ClientApp\nclient = ClientApp()",
            "the clientapp 'small.client_app:app' of the app's pyproject.toml is missing: there is no 'app'",
        ),
        (
            "import no_such_library.parts",
            (
                "the clientapp 'small.client_app:app' cannot be imported: the app imports 'no_such_library',"
                " which is not installed here: add the package that has it to the dependencies in the app's"
                " pyproject.toml, and run `fedgrass flower add` again"
            ),
        ),
        (
            "import numpy.no_such_part",
            (
                "the clientapp 'small.client_app:app' cannot be imported: the app imports"
                " 'numpy.no_such_part',"
                " which the installed 'numpy' does not have"
            ),
        ),
        (
            "from small.model import Net",
            "the clientapp 'small.client_app:app' cannot be imported: FOLDER has no module 'small.model'",
        ),
        (
            "from small import Net",
            (
                "the clientapp 'small.client_app:app' cannot be imported: cannot import name 'Net'"
                " from 'small'"
                " (FOLDER/small/__init__.py)"
            ),
        ),
        (
            "from flwr.common import no_such_function",
            (
                "the clientapp 'small.client_app:app' cannot be imported: cannot import name"
                " 'no_such_function'"
                " from 'flwr.common' (FLOWER/common/__init__.py) (flwr VERSION is installed)"
            ),
        ),
    ],
)
def test_an_app_that_cannot_be_loaded_is_refused_by_name(
    tmp_path: Path, client_app: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        task_of(tmp_path, client_app)
    flower, version = str(Path(flwr.__file__).parent), importlib.metadata.version("flwr")
    expected = expected.replace("FOLDER", str(tmp_path)).replace("FLOWER", flower).replace("VERSION", version)
    assert str(raised.value) == expected


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    write_app(tmp_path, MEAN_APP, PYPROJECT.replace("small.client_app", "other.client"))
    with pytest.raises(ConfigurationError, match=r"'other.client:app' cannot be imported: .*'other'"):
        app_task(tmp_path)


def test_an_exception_as_the_app_is_imported_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        task_of(tmp_path, "1 / 0")


def test_an_attribute_may_be_inside_of_an_object(tmp_path: Path) -> None:
    app = MEAN_APP + "\n    class Holder:\n        inner = app\n    del app\n"
    write_app(tmp_path, app, PYPROJECT.replace("client_app:app", "client_app:Holder.inner"))
    assert train(app_task(tmp_path, **{"node-partition-id": 1}), MODEL).weights["w"].tolist() == [0.5, 0.5]


HELPED_APP = (
    MESSAGE_APP
    + """
    from small.helper import VALUE
    from small import helper
    import small.helper as again

    @app.train()
    def train(msg: Message, context: Context):
        from small.late import LATE
        import importlib
        assert helper.VALUE == again.VALUE == importlib.import_module(helper.__name__).VALUE
        arrays = ArrayRecord([np.full(2, VALUE + LATE, np.float32)])
        return Message(RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": 1})}), reply_to=msg)
"""
)


def test_two_apps_of_one_name_do_not_see_each_others_modules(tmp_path: Path) -> None:
    tasks = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        write_app(folder, HELPED_APP, helper=f"VALUE = {value}", late=f"LATE = {value / 4}")
        tasks.append(app_task(folder))
    assert [train(task, {"0": np.zeros(2)}).weights["0"][0] for task in tasks] == [1.25, 2.5]
    assert "small" not in sys.modules
    assert not any(path.startswith(str(tmp_path)) for path in sys.path)


@pytest.mark.parametrize("changed", ["small/helper.py", "pyproject.toml"])
def test_a_changed_app_is_loaded_again(tmp_path: Path, changed: str) -> None:
    write_app(tmp_path, HELPED_APP, helper="VALUE = 1", late="LATE = 0")
    options = {**release(tmp_path), "path": f"{tmp_path}/"}  # spelled otherwise than Path spells it
    task = load_task("flower:small", options)
    assert train(task, {"0": np.zeros(2)}).weights["0"][0] == 1
    assert is_current("flower:small")
    file = tmp_path / changed
    file.write_text(file.read_text().replace("VALUE = 1", "VALUE = 12").replace("0.5", "0.25"))
    assert not is_current("flower:small")
    task = load_task("flower:small", options)
    assert train(task, {"0": np.zeros(2)}).weights["0"][0] == (12 if "helper" in changed else 1)
    assert is_current("flower:small")


def test_the_class_of_a_release_is_loaded_with_its_options(tmp_path: Path) -> None:
    write_app(tmp_path, MEAN_APP)
    task = load_task("flower:small", {**release(tmp_path), "node-partition-id": 4})
    assert train(task, MODEL).weights["w"].tolist() == [2.0, 2.0]
    with pytest.raises(ConfigurationError, match="a Flower app has no option 'epochs'"):
        load_task("flower:small", {**release(tmp_path), "epochs": 3})


def run(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, "HOME": str(tmp_path), **environment}
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_HOME"):
        whole.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", code], env=whole, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.slow
def test_flower_is_imported_without_telemetry_handlers_or_files(tmp_path: Path) -> None:
    code = """
import atexit, logging, os, signal, socket, sys, threading
socket.socket.connect = None
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
before = [signal.getsignal(number) for number in signal.valid_signals()], sys.excepthook, threading.excepthook
registered = []
atexit.register = lambda function, *_, **__: registered.append(function.__module__)
from pathlib import Path
from tests.unit.device.flower.small_apps import LEGACY_APP, task_of
task = task_of(Path(sys.argv[0] or ".") / os.environ["HOME"] / "app", LEGACY_APP.replace("context", "cid"))
task.initial_weights(1)
from flwr.supercore import telemetry
assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0" and not telemetry.FLWR_TELEMETRY_ENABLED == "1"
assert before == ([signal.getsignal(n) for n in signal.valid_signals()], sys.excepthook, threading.excepthook)
assert not [module for module in registered if module.startswith("flwr")], registered
from flwr.supercore import log
log(logging.INFO, "not written")
log(logging.WARNING, "written once")
"""
    found = run(code, tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "not written" not in found.stdout
    assert found.stdout.count("WARNING written once") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "sys.modules['flwr'] = None; hide()",
            "a Flower app needs the package flwr, which is not installed here:",
        ),
        (
            "import flwr.app; del flwr.app.MetricRecord; version('1.20.0')",
            (
                "flwr 1.20.0 is installed, and fedgrass needs 1.40 or a later one with its interface: cannot"
                " import name 'MetricRecord'"
            ),
        ),
        (
            "import flwr.app; sys.modules['flwr.supercore.task_identity'] = None; version('2.0.0')",
            "flwr 2.0.0 is installed, and fedgrass needs 1.40 or a later one with its interface: ",
        ),
        (
            "sys.modules['flwr'] = None; sys.version_info = (3, 10, 4)",
            "this is Python 3.10, and Flower apps need",
        ),
    ],
)
def test_a_flower_that_cannot_be_used_is_named(tmp_path: Path, code: str, expected: str) -> None:
    found = run(
        f"""
import importlib.metadata, sys
def hide():
    def raising(name):
        raise importlib.metadata.PackageNotFoundError(name)
    importlib.metadata.version = raising
def version(number):
    importlib.metadata.version = lambda name: number
{code}
from components.runtime.component_errors import ConfigurationError
try:
    import components.trainer.flower.flower_task
except ConfigurationError as error:
    print(error)
""",
        tmp_path,
    )
    assert found.stdout.startswith(expected), found.stdout + found.stderr


def test_a_private_name_that_another_version_lacks_is_named(tmp_path: Path) -> None:
    app = MESSAGE_APP + "\n    del app._registered_funcs\n"
    with pytest.raises(
        ConfigurationError, match=r"flwr .* is installed, and fedgrass needs 1\.40 or a later one"
    ):
        task_of(tmp_path, app)


@pytest.mark.parametrize(
    ("named", "level"), [("debug", logging.DEBUG), ("ERROR", logging.ERROR), ("", 30), ("loud", 30)]
)
def test_the_level_of_flowers_log_is_the_users_if_there_is_such_a_level(
    named: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_LOG_LEVEL", named)
    assert flower_log_level(logging.WARNING) == level
