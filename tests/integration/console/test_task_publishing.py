"""``fedgrass task publish``: checked, frozen, uploaded and created, or written to a folder without AWS.

Artifacts go to S3 of the embedded cloud; it has no GreengrassV2, whose calls are checked against the service
model.
"""

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.stub import ANY

from fedgrass.console import stack
from fedgrass.console.deploy import component_publishing
from fedgrass.console.main import parse
from fedgrass.federation.errors import SettingsError
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.stubbed_aws import ACCOUNT, REGION, StubbedAws
from tests.fakes.wheels import write_wheel
from tests.integration.console.test_component_publishing import created, described, stored

COMPONENT = "com.fedgrass.task.cracks"
ARN = f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:{COMPONENT}"
VERSION_ARN = f"{ARN}:versions:1.2.0"
TASK = """
import numpy as np
from components.trainer.tasks.task import Evaluation, Fit
from scaling import HALF

class Cracks:
    def __init__(self, folder=""):
        if folder:
            open(folder + "/images.npy")
    def examples(self):
        return 10
    def initial_weights(self, seed):
        return {"w": np.ones(3, np.float32)}
    def evaluate(self, weights):
        return Evaluation(5, {"loss": float(weights["w"].sum())})
    def fit(self, weights, settings, report, stop):
        return Fit({"w": weights["w"] * np.float32(HALF)}, 10, partial=stop())
"""
Command = Callable[..., None]


def source(folder: Path, text: str = TASK) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cracks.py").write_text(text)
    (folder / "scaling.py").write_text("HALF = 0.5\n")
    return folder


def fedgrass(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedgrass.console.main", "task", "publish", "cracks:Cracks", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture
def aws() -> StubbedAws:
    return StubbedAws()


@pytest.fixture
def bucket(embedded_cloud: EmbeddedCloud, tmp_path: Path) -> Iterator[str]:
    name = "tasks-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    embedded_cloud.client("s3").create_bucket(Bucket=name)
    yield name
    for key in stored(embedded_cloud, name):
        embedded_cloud.client("s3").delete_object(Bucket=name, Key=key)
    embedded_cloud.client("s3").delete_bucket(Bucket=name)


@pytest.fixture
def publish(
    aws: StubbedAws,
    embedded_cloud: EmbeddedCloud,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Command:
    """Run the command in a folder with the task, in this process."""

    def client(service: str) -> Any:
        return embedded_cloud.client(service) if service == "s3" else aws.client(service)

    monkeypatch.setattr(stack, "client", client)
    monkeypatch.setattr(stack, "outputs", lambda _name: {"Fleet": "plant", "BucketName": bucket})
    monkeypatch.setattr(component_publishing, "LOOK_SECONDS", 0.0)
    monkeypatch.chdir(source(tmp_path / "task"))

    def command(*words: str) -> None:
        aws.expect_account()
        parse(["task", "publish", "cracks:Cracks", "--version", "1.2.0", *words])()

    return command


def expect_versions(aws: StubbedAws, *versions: str) -> None:
    listed = [{"componentName": COMPONENT, "componentVersion": version, "arn": ARN} for version in versions]
    aws.expect("greengrassv2", "list_component_versions", {"componentVersions": listed}, arn=ARN)


def expect_creation(aws: StubbedAws) -> None:
    made = {
        **created("REQUESTED"),
        "arn": VERSION_ARN,
        "componentName": COMPONENT,
        "componentVersion": "1.2.0",
    }
    aws.expect("greengrassv2", "create_component_version", made, inlineRecipe=ANY)
    aws.expect(
        "greengrassv2", "describe_component", {**described("DEPLOYABLE"), "arn": VERSION_ARN}, arn=VERSION_ARN
    )


def test_a_task_is_published_with_its_files_and_removed_again(
    aws: StubbedAws,
    embedded_cloud: EmbeddedCloud,
    bucket: str,
    publish: Command,
    capfd: pytest.CaptureFixture[str],
) -> None:
    expect_versions(aws, "1.1.0")
    expect_versions(aws, "1.1.0")
    expect_creation(aws)
    publish()
    aws.all_came()
    shown = capfd.readouterr().out
    assert "ok    import: cracks:Cracks is found in the files of its component" in shown
    assert "ok    training: the loss fell" in shown
    assert "--task cracks=1.2.0`" in shown
    (key,) = stored(embedded_cloud, bucket)
    assert key.startswith(f"components/{COMPONENT}/1.2.0/")
    content = embedded_cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [name for name in archive.namelist() if name.startswith("files/")]
    assert files == ["files/cracks.py", "files/scaling.py"]
    uri = f"s3://{bucket}/{key}"
    recipe = yaml.safe_dump({"Manifests": [{"Artifacts": [{"URI": uri}]}]}).encode()
    answer = {"recipe": recipe, "recipeOutputFormat": "YAML"}
    aws.expect("greengrassv2", "get_component", answer, arn=VERSION_ARN, recipeOutputFormat="YAML")
    aws.expect("greengrassv2", "delete_component", {}, arn=VERSION_ARN)
    publish("--remove")
    aws.all_came()
    assert stored(embedded_cloud, bucket) == []


def test_a_dry_run_checks_and_uploads_nothing(
    aws: StubbedAws,
    embedded_cloud: EmbeddedCloud,
    bucket: str,
    publish: Command,
    capfd: pytest.CaptureFixture[str],
) -> None:
    expect_versions(aws)
    expect_versions(aws)
    publish("--dry-run")
    assert f"would upload s3://{bucket}/components/{COMPONENT}/1.2.0/" in capfd.readouterr().out
    assert stored(embedded_cloud, bucket) == []
    aws.all_came()


def test_a_version_that_exists_already_is_refused_before_the_check(
    aws: StubbedAws, publish: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    expect_versions(aws, "1.2.0")
    with pytest.raises(SettingsError, match=rf"{COMPONENT} 1\.2\.0 already exists"):
        publish()
    assert "import" not in capfd.readouterr().out


def test_a_broken_task_is_not_uploaded(
    aws: StubbedAws, embedded_cloud: EmbeddedCloud, bucket: str, publish: Command
) -> None:
    expect_versions(aws)
    Path("cracks.py").write_text("import nothing_of_this_name\nclass Cracks: ...\n")
    with pytest.raises(SystemExit):
        publish()
    assert stored(embedded_cloud, bucket) == []


def test_without_aws_the_component_is_written_to_a_folder(tmp_path: Path) -> None:
    folder = source(tmp_path / "task")
    (folder / "labels.txt").write_text("crack\n")
    done = fedgrass(folder, "--version", "1.2.0", "--out", "../out", "--include", "labels.txt")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {COMPONENT} 1.2.0 (3 files: cracks.py, labels.txt, scaling.py) to ../out" in done.stdout
    assert f"fedgrass core deploy --recipe ../out/recipes/{COMPONENT}-1.2.0.yaml" in done.stdout
    assert (tmp_path / "out" / "artifacts" / COMPONENT / "1.2.0" / "task.zip").is_file()
    assert not list(folder.rglob("__pycache__")), "the check leaves nothing in the author's folder"


def test_a_dry_run_of_a_folder_writes_nothing(tmp_path: Path) -> None:
    done = fedgrass(source(tmp_path / "task"), "--version", "1.2.0", "--out", "../out", "--dry-run")
    assert f"would write {COMPONENT} 1.2.0 to ../out" in done.stdout
    assert not (tmp_path / "out").exists()


def test_data_that_only_the_devices_have_are_not_required(tmp_path: Path) -> None:
    folder = source(tmp_path / "task")
    words = ("--version", "1.2.0", "--out", "../out", "--option", "folder=/data/of/the/device")
    done = fedgrass(folder, *words)
    assert done.returncode == 0
    assert "note  creation: " in done.stdout
    assert "is added by --include" in done.stdout
    assert "No such file or directory: '/data/of/the/device/images.npy'" in done.stdout
    assert "its data may be on the devices alone" in done.stdout
    assert (tmp_path / "out").exists()


def test_the_import_alone_can_be_checked(tmp_path: Path) -> None:
    done = fedgrass(source(tmp_path / "task"), "--version", "1.2.0", "--out", "../out", "--check", "import")
    assert done.returncode == 0
    assert "training" not in done.stdout


NO_FIT = TASK.replace("def fit", "def train")
NO_LOSS = TASK.replace("* np.float32(HALF)", "* np.float32(2)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Other: ...\n", "FAIL  import: task 'published' cannot be loaded from cracks:Cracks"),
        ("import helpers_elsewhere\n", "pip install helpers_elsewhere"),
        ("1 / 0\n", "cracks.py:1: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "cracks.py:1: SystemExit: 3"),
        ("import os\nos._exit(0)\n", "FAIL  import: the task ended its process with exit code 0"),
        (NO_FIT, "has no method 'fit'"),
        (NO_LOSS, "FAIL  training"),
        ("class Cracks(:\n", "SyntaxError"),
    ],
)
def test_a_task_that_no_device_could_use_is_refused_in_one_line(
    tmp_path: Path, text: str, words: str
) -> None:
    folder = source(tmp_path / "task", text)
    done = fedgrass(folder, "--version", "1.2.0", "--out", "../out")
    assert done.returncode == 1
    assert words in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_read_but_not_included_is_missed_by_the_check(tmp_path: Path) -> None:
    text = "from pathlib import Path\nLABELS = (Path(__file__).parent / 'labels.txt').read_text()\n" + TASK
    folder = source(tmp_path / "task", text)
    (folder / "labels.txt").write_text("crack\n")
    words = ("--version", "1.2.0", "--out", "../out")
    refused = fedgrass(folder, *words)
    assert refused.returncode == 1
    assert "FileNotFoundError" in refused.stdout
    assert fedgrass(folder, *words, "--include", "labels.txt").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version", "1.2"), "--version is '1.2'; it takes three numbers"),
        (("--version", "1.2.0", "--name", "Cracks"), "'Cracks' cannot name a task"),
        (("--version", "1.2.0", "--path", "none"), "is not a folder"),
        (("--version", "1.2.0", "--include", "../x"), "is not below the task's folder"),
        (("--version", "1.2.0", "--requirements", "none.txt"), "none.txt cannot be read"),
        (("--version", "1.2.0", "--python", "three"), "--python is 'three'; it takes a version such as 3.11"),
        (("--version", "1.2.0", "--remove"), "--remove and --out exclude each other"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = fedgrass(source(tmp_path / "task"), "--out", "../out", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_requirements_are_pinned_and_may_be_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    write_wheel(index, "cracklib", "1.1")
    for tool in ("UV", "PIP"):
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    nothing = tmp_path / "simple"  # uv has no variable for --no-index
    nothing.mkdir()
    monkeypatch.setenv("UV_DEFAULT_INDEX", nothing.as_uri())
    folder = source(tmp_path / "task")
    (folder / "requirements.txt").write_text("cracklib\n")
    words = (
        "--version",
        "1.2.0",
        "--out",
        "../out",
        "--platform",
        "aarch64",
        "--python",
        "3.12",
        "--bundle",
    )
    done = fedgrass(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the devices install next to the trainer's packages: cracklib" in done.stdout
    with zipfile.ZipFile(tmp_path / "out" / "artifacts" / COMPONENT / "1.2.0" / "task.zip") as archive:
        assert archive.read("requirements.txt").startswith(b"cracklib==1.1 \\\n    --hash=sha256:")
        assert "wheels/cracklib-1.1-py3-none-any.whl" in archive.namelist()
    assert "architecture: amd64" not in (tmp_path / "out" / "recipes" / f"{COMPONENT}-1.2.0.yaml").read_text()
