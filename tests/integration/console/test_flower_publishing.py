"""``fedgrass flower add`` and ``check``: an app is tried, published, installed as on a device, and works."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.stub import ANY

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from components.trainer.tasks.registry import load_task
from components.trainer.tasks.task_release import installed_release
from fedgrass.console import stack
from fedgrass.console.deploy import component_publishing
from fedgrass.console.flower.flower_project import check_flwr
from fedgrass.console.main import parse
from fedgrass.console.tasks.frozen_requirements import trainer_pins
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.flower_apps import CLIENT, PROJECT, SERVER, write_app
from tests.fakes.stubbed_aws import ACCOUNT, REGION, StubbedAws
from tests.fakes.wheels import write_wheel
from tests.integration.console.test_component_publishing import created, described, stored

pytestmark = pytest.mark.slow
COMPONENT = "com.fedgrass.task.flower.mean-of-numbers"


def fedgrass(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedgrass.console.main", "flower", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of wheels in a folder, with the trainer's numpy and a stand-in of flwr; no other is asked."""
    folder = tmp_path / "index"
    write_wheel(folder, "flwr", check_flwr(), requires=["iterlib"])
    write_wheel(folder, "iterlib", "0.3")
    write_wheel(folder, "numpy", trainer_pins()["numpy"])
    nothing = tmp_path / "simple"  # uv has no variable for --no-index
    nothing.mkdir()
    for name, value in {
        "UV_FIND_LINKS": str(folder),
        "PIP_FIND_LINKS": str(folder),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": "/dev/null",
        "UV_DEFAULT_INDEX": nothing.as_uri(),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_an_app_becomes_a_component_that_installs_itself_and_trains(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert index.is_dir()
    write_app(tmp_path / "app")
    words = ("--out", "out", "--bundle", "--platform", "amd64", "--python", f"3.{sys.version_info[1]}")
    done = fedgrass(tmp_path, "add", "app", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the devices install next to the trainer's packages: flwr, iterlib\n" in done.stdout
    assert "ok    train: 10 examples, train_loss 0.25" in done.stdout
    assert f"wrote {COMPONENT} 1.2.0 (5 files: pyproject.toml, mean/__init__.py, " in done.stdout
    assert f"fedgrass core deploy --recipe out/recipes/{COMPONENT}-1.2.0.yaml" in done.stdout

    work, trainer = tmp_path / "work", tmp_path / "work" / "com.fedgrass.Trainer"
    archive = tmp_path / "out" / "artifacts" / COMPONENT / "1.2.0" / "task.zip"
    subprocess.run(
        [sys.executable, "-I", archive, "--into", work], check=True, capture_output=True, timeout=110
    )
    trainer.mkdir()
    monkeypatch.chdir(trainer)
    monkeypatch.setattr(sys, "path", list(sys.path))
    release = installed_release("flower:mean-of-numbers", COMPONENT)
    assert release.module == "fedgrass_flower_app:App"
    assert sorted(one.name for one in Path(release.packages).glob("*.py")) == ["flwr.py", "iterlib.py"]
    options: dict[str, bool | int | float | str] = {"component": COMPONENT, "node-partition-id": 2}
    task = load_task("flower:mean-of-numbers", options)
    fit = task.fit(
        {"b": np.ones(3, np.float32), "a": np.zeros((), np.int64)}, {}, lambda _: None, lambda: False
    )
    assert fit.examples == 12
    np.testing.assert_array_equal(fit.weights["b"], np.full(3, 1.5, np.float32))


def test_an_app_is_published_to_the_account_with_how_to_deploy_it(
    tmp_path: Path,
    index: Path,
    embedded_cloud: EmbeddedCloud,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert index.is_dir()
    write_app(tmp_path / "app")
    aws, bucket = StubbedAws(), "apps-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    embedded_cloud.client("s3").create_bucket(Bucket=bucket)
    monkeypatch.setattr(
        stack, "client", lambda name: embedded_cloud.client(name) if name == "s3" else aws.client(name)
    )
    monkeypatch.setattr(stack, "outputs", lambda _: {"Fleet": "plant", "BucketName": bucket})
    monkeypatch.setattr(component_publishing, "LOOK_SECONDS", 0.0)
    arn = f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:{COMPONENT}"
    made = {**created("REQUESTED"), "arn": f"{arn}:versions:1.2.0", "componentName": COMPONENT}
    aws.expect_account()
    for _ in range(2):
        aws.expect("greengrassv2", "list_component_versions", {"componentVersions": []}, arn=arn)
    aws.expect("greengrassv2", "create_component_version", made, inlineRecipe=ANY)
    aws.expect("greengrassv2", "describe_component", described("DEPLOYABLE"), arn=f"{arn}:versions:1.2.0")
    parse(["flower", "add", str(tmp_path / "app"), "--python", "3.12", "--check", "import"])()
    aws.all_came()
    shown = capfd.readouterr().out
    assert "fedgrass deploy devices --group GROUP --task flower:mean-of-numbers=1.2.0" in shown
    assert "rows such as press-1,flower:mean-of-numbers.node-partition-id,0" in shown
    (key,) = stored(embedded_cloud, bucket)
    assert f"{COMPONENT}/1.2.0/" in key
    embedded_cloud.client("s3").delete_object(Bucket=bucket, Key=key)
    embedded_cloud.client("s3").delete_bucket(Bucket=bucket)


def test_check_reports_what_a_device_needs_and_initial_model_writes_the_file(tmp_path: Path) -> None:
    write_app(tmp_path / "app")
    done = fedgrass(
        tmp_path, "check", "app", "--option", "node-partition-id=3", "--run-config", "optimizer.lr=2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "ok    import: mean.server_app:app, and mean.client_app:app with train, evaluate",
        "ok    model: 2 arrays, 4 values, from the ServerApp",
        "ok    train: 13 examples, train_loss 0.25",
        "ok    evaluate: 5 examples, loss 9",  # the trained model: 1 + 2 in each of three values
    ]
    assert lines[4] == "resources of a device with node-partition-id=3"
    assert f"      packages: flwr=={check_flwr()}, with what they require; the trainer has numpy" in lines
    assert "      Python: 3.11, 3.12, 3.13, 3.14" in lines

    done = fedgrass(tmp_path, "initial-model", "app", "--out", "0.safetensors")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1] == (
        "the ServerApp sends settings with it, for the run: training='{\"momentum\": 0.9}'"
    )
    assert list(read_arrays((tmp_path / "0.safetensors").read_bytes())) == ["b", "a"]


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "imports what is missing": (
        {"client": "import no_such_package\n"},
        2,
        "not installed here: pip install no-such-package and add it to the dependencies in pyproject.toml",
    ),
    "breaks at its import": (
        {"client": CLIENT + "\n1 / 0\n"},
        2,
        "app/mean/client_app.py:20: ZeroDivisionError",
    ),
    "has no functions": (
        {"client": "from flwr.clientapp import ClientApp\napp = ClientApp()\n"},
        1,
        "FAIL  import: the ClientApp has no functions: register them by @app.train()",
    ),
    "has a ServerApp that raises": (
        {"server": SERVER.replace("    arrays =", "    context.run_config['rounds']\n    arrays =")},
        1,
        "FAIL  initial model: the ServerApp mean.server_app:app fails: ",
    ),
    "misses a partition": (
        {"client": CLIENT.replace("partition-id", "site")},
        1,
        "give it as the task's option node-site",
    ),
    "returns other arrays": (
        {"client": CLIENT.replace("{name: Array(np", "{name + 'x': Array(np")},
        1,
        "FAIL  train: ",
    ),
    "takes for ever": (
        {"client": CLIENT.replace("    lr =", "    while True: pass\n    lr =")},
        1,
        "FAIL  train: the",
    ),
    "crashes its process": (
        {"client": CLIENT.replace("    lr =", "    import os; os._exit(7)\n    lr =")},
        1,
        "FAIL  train: the task ended its process with exit code 7",
    ),
    "is not an app": (
        {"project": PROJECT.replace("tool.flwr", "tool.flower")},
        2,
        "there is no [tool.flwr.app]",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_an_app_that_is_wrong_is_reported_in_one_line(tmp_path: Path, name: str) -> None:
    parts, code, said = WRONG[name]
    write_app(tmp_path / "app", **parts)
    done = fedgrass(tmp_path, "check", "app", "--seconds", "5" if name == "takes for ever" else "60")
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    reported = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("ok  ")]
    assert len(reported) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version", "1"), "--version is '1'; it takes three numbers"),
        (("--python", "2.7"), "--python is '2.7'; it takes a version such as 3.11"),
        (("--unpin", "panda"), "--unpin names 'panda'"),
        (("--name", "A b"), "'flower:A b' cannot name a task"),
        (
            ("--run-config", "nothing=1"),
            "--run-config names 'nothing', which is not in [tool.flwr.app.config]",
        ),
    ],
)
def test_a_wrong_option_of_add_is_reported_in_one_line(
    tmp_path: Path, index: Path, words: tuple[str, ...], said: str
) -> None:
    assert index.is_dir()
    write_app(tmp_path / "app")
    done = fedgrass(tmp_path, "add", "app", "--out", "out", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_app_that_fails_is_not_published_unless_only_its_import_is_checked(
    tmp_path: Path, index: Path
) -> None:
    assert index.is_dir()
    client = CLIENT.replace("    lr =", '    open("/no/such/data")\n    lr =')
    write_app(tmp_path / "app", client=client)
    words = ("add", "app", "--out", "out", "--python", "3.12", "--platform", "aarch64")
    done = fedgrass(tmp_path, *words)
    assert done.returncode == 1
    assert "FAIL  train: " in done.stdout
    assert "FileNotFoundError" in done.stdout
    assert "if it needs data that only the devices have: --check import" in done.stderr
    assert not (tmp_path / "out").exists()
    done = fedgrass(tmp_path, *words, "--check", "import", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"would write {COMPONENT} 1.2.0 to out" in done.stdout
    assert not (tmp_path / "out").exists()
