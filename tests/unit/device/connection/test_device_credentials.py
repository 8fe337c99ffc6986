"""Whose credentials a core device uses, when they are renewed, and which errors of AWS it outlasts."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.config import Config

from components.predictor.model_store import ModelBucket
from components.runtime import token_exchange_address
from components.runtime.component_errors import Unavailable, UploadFailed, WorkFailed
from components.runtime.s3_access import describe, remedy_of
from components.trainer.upload import s3_upload
from components.trainer.upload.s3_upload import S3Uploader
from components.trainer.upload.s3_upload_process import S3UploadProcess
from components.trainer.worker import model_download
from components.trainer.worker.model_download import ModelDownload
from fedgrass.federation.aws_errors import Remedy, is_transient, remedy
from fedgrass.federation.messages import NewModel
from greengrass_emulator.stream_manager import s3_export_task
from tests.fakes.stubbed_device_cloud import Answer, DeviceCloud, device_cloud, error

pytestmark = pytest.mark.slow

BODY = b"12345678"
MODEL = NewModel(
    task="digits",
    run="run-a",
    round=1,
    bucket="bucket",
    key="models/run-a/1.safetensors",
    bytes=len(BODY),
    sha256=hashlib.sha256(BODY).hexdigest(),
)
NEVER = threading.Event()
STALE = "[default]\naws_access_key_id = ASIASTALE\naws_secret_access_key = x\naws_session_token = y\n"


def good(_method: str, _key: str, _number: int) -> Answer:
    return 200, BODY


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_download, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(model_download, "LARGEST_DELAY", 0.01)
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    monkeypatch.setattr(model_download, "CONFIG", model_download.CONFIG.merge(once))
    monkeypatch.setattr(s3_upload, "CONFIG", s3_upload.CONFIG.merge(once))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the component's user."""
    folder = tmp_path / "home"
    (folder / ".aws").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def cloud(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceCloud]:
    assert home.exists()
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with device_cloud(good) as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        yield cloud


def download() -> None:
    assert ModelDownload().fetch("bucket", "models/run-a/0.safetensors", len(BODY)) == BODY


def upload() -> None:
    file = Path(os.environ["HOME"]) / "update.safetensors"
    file.write_bytes(BODY)
    S3UploadProcess(file.parent).upload(file, "bucket", "updates/press-1/run-a/1-1.safetensors", NEVER)


def predict() -> None:
    assert ModelBucket().fetch(MODEL) == BODY


USES = {"download": download, "upload": upload, "predictor": predict}


def stale_credentials(home: Path, _: pytest.MonkeyPatch) -> None:
    (home / ".aws" / "credentials").write_text(STALE)


def stale_configuration(home: Path, _: pytest.MonkeyPatch) -> None:
    (home / ".aws" / "config").write_text(
        f"{STALE}region = us-west-1\nendpoint_url = http://127.0.0.1:9\ncredential_process = /bin/false\n"
    )


def damaged_files(home: Path, _: pytest.MonkeyPatch) -> None:
    for name in ("config", "credentials"):
        (home / ".aws" / name).write_text("this is no configuration\n[")


def static_keys(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIASTALE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "y")


def missing_profile(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_DEFAULT_PROFILE", "nobody")


def other_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "elsewhere"
    file.write_text(STALE)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))


def container_of_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/other")
    file = home / "token"
    file.write_text("another token")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(file))


def assumed_role(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "web"
    file.write_text("token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/other")


SURROUNDINGS = [
    stale_credentials,
    stale_configuration,
    damaged_files,
    static_keys,
    missing_profile,
    other_files,
    container_of_another,
    assumed_role,
]


@pytest.mark.parametrize("surroundings", SURROUNDINGS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("use", USES)
def test_nothing_but_the_token_exchange_service_says_who_a_core_device_is(
    use: str,
    surroundings: Callable[[Path, pytest.MonkeyPatch], None],
    cloud: DeviceCloud,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    surroundings(home, monkeypatch)
    USES[use]()
    assert set(cloud.used) == {"ASIAFRESH"}


def test_the_token_exchange_service_is_not_asked_through_a_proxy(
    cloud: DeviceCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, cloud.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    download()
    assert [path for path in cloud.asked if not path.startswith("/")] == []


TRANSIENT = [
    (403, "RequestTimeTooSkewed"),
    (403, "SignatureDoesNotMatch"),
    (403, "RequestExpired"),
    (400, "ExpiredToken"),
    (403, "InvalidAccessKeyId"),
    (400, "InvalidToken"),
    (400, "TokenRefreshRequired"),
    (503, "SlowDown"),
    (400, "RequestTimeout"),
    (429, "TooManyRequestsException"),
    (500, "InternalError"),
]
FINAL = [(403, "AccessDenied"), (404, "NoSuchKey"), (404, "NoSuchBucket"), (400, "InvalidBucketName")]


@pytest.mark.parametrize(("status", "code"), TRANSIENT)
def test_a_download_outlasts_what_is_transient(cloud: DeviceCloud, status: int, code: str) -> None:
    waits: list[str] = []
    # More often than the fixed number of tries that there was.
    cloud.respond = lambda _method, _key, number: good("", "", 0) if number >= 6 else error(status, code)
    store = ModelDownload(waits.append)
    assert store.fetch("bucket", "models/run-a/0.safetensors", len(BODY)) == BODY
    assert waits
    assert all("cannot be downloaded" in reason for reason in waits)
    skewed = remedy(code, status) is Remedy.RENEW_CREDENTIALS
    assert (len(cloud.asked) > 1) == skewed  # new credentials, where those were refused


@pytest.mark.parametrize(("status", "code"), FINAL)
def test_a_download_ends_at_once_with_what_is_final(cloud: DeviceCloud, status: int, code: str) -> None:
    cloud.respond = lambda *_: error(status, code)
    with pytest.raises(WorkFailed, match=code):
        ModelDownload().fetch("bucket", "models/run-a/0.safetensors", len(BODY))
    assert len(cloud.used) == 1


@pytest.mark.parametrize(("status", "code"), [*TRANSIENT, *FINAL])
def test_an_upload_and_the_emulator_go_by_the_same_table(
    cloud: DeviceCloud, home: Path, status: int, code: str
) -> None:
    cloud.respond = lambda *_: error(status, code)
    file = home / "update.safetensors"
    file.write_bytes(BODY)
    uploader = S3Uploader(home)
    with pytest.raises(UploadFailed) as failed:
        uploader.upload(file, "bucket", "updates/press-1/run-a/1-1.safetensors", NEVER)
    assert failed.value.transient == ((status, code) in TRANSIENT) == is_transient(code, status)
    cause = failed.value.__cause__
    assert isinstance(cause, Exception)
    assert s3_export_task.is_final(cause) == (not failed.value.transient)
    # What was refused with one key is tried with the next.
    cloud.keys, cloud.respond = ["ASIANEXT"], good
    uploader.upload(file, "bucket", "updates/press-1/run-a/1-1.safetensors", NEVER)
    renewed = remedy(code, status) is Remedy.RENEW_CREDENTIALS
    assert cloud.used[-1] == ("ASIANEXT" if renewed else "ASIAFRESH")


@pytest.mark.parametrize(("status", "code"), [(400, "ExpiredToken"), (403, "AccessDenied")])
def test_the_process_that_uploads_passes_on_whether_trying_again_helps(
    cloud: DeviceCloud, home: Path, status: int, code: str
) -> None:
    cloud.respond = lambda *_: error(status, code)
    file = home / "update.safetensors"
    file.write_bytes(BODY)
    with pytest.raises(UploadFailed, match=code) as failed:
        S3UploadProcess(home).upload(file, "bucket", "updates/press-1/run-a/1-1.safetensors", NEVER)
    assert failed.value.transient == is_transient(code, status)


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"no credentials"),
        (404, b"No such svcuid present."),
        (200, b"null"),
        (200, b"{}"),
        (200, b"<html>"),
    ],
)
def test_a_token_exchange_service_that_has_nothing_yet_is_waited_for(
    cloud: DeviceCloud, answer: Answer
) -> None:
    cloud.credentials = answer

    def waiting(reason: str) -> None:
        assert "the token exchange service" in reason
        cloud.credentials = None

    assert ModelDownload(waiting).fetch("bucket", "models/run-a/0.safetensors", len(BODY)) == BODY


@pytest.mark.parametrize("expiration", ["2001-01-01T00:00:00Z", "2001-01-01T00:00:00", "soon"])
def test_credentials_that_have_ended_by_the_devices_clock_are_asked_for_again(
    cloud: DeviceCloud, expiration: str
) -> None:
    cloud.expiration = expiration

    def waiting(reason: str) -> None:
        assert "is this device's clock right?" in reason or expiration == "soon"
        cloud.expiration = "2099-01-01T00:00:00Z"

    assert ModelDownload(waiting).fetch("bucket", "models/run-a/0.safetensors", len(BODY)) == BODY


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("known", ["", "http://localhost:{port}/2016-11-01/credentialprovider/"])
def test_a_service_that_came_late_or_moved_is_found_again(
    cloud: DeviceCloud, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nucleus Lite's service takes a free port at each start, and the classic one does by default."""
    monkeypatch.setenv(token_exchange_address.ADDRESS, known.format(port=free_port()))
    found: list[bool] = []
    store = ModelDownload(lambda _reason: found.append(token_exchange_address.find_again(lambda: cloud.port)))
    assert store.fetch("bucket", "models/run-a/0.safetensors", len(BODY)) == BODY
    assert found == [True]
    assert not token_exchange_address.find_again(lambda: cloud.port)
    assert not token_exchange_address.find_again(lambda: None)


def test_the_predictor_finds_the_service_again(cloud: DeviceCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(token_exchange_address.ADDRESS, f"http://localhost:{free_port()}/")
    bucket = ModelBucket(lambda: cloud.port)
    with pytest.raises(Unavailable, match="the token exchange service"):
        bucket.fetch(MODEL)
    assert bucket.fetch(MODEL) == BODY


def test_an_error_that_a_wrong_clock_explains_says_so(cloud: DeviceCloud) -> None:
    cloud.respond = lambda *_: error(403, "SignatureDoesNotMatch")
    waits: list[str] = []

    def waiting(reason: str) -> None:
        waits.append(reason)
        cloud.respond = good

    ModelDownload(waiting).fetch("bucket", "models/run-a/0.safetensors", len(BODY))
    assert waits[0].endswith("(is this device's clock right?)")
    assert describe(ValueError("x")) == "x"
    assert remedy_of(RuntimeError("x")) is Remedy.GIVE_UP
