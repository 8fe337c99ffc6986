"""Every error of an operator ends in one line and an exit code above 0, never in a traceback."""

import contextlib
import os
import re
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self, get_args

import pytest
from botocore.config import Config

from fedgrass.console import main, stack
from tests.unit.console.command_tree import commands

pytestmark = pytest.mark.slow

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head>\n<body>proxy\n</body></html>"


def http_answer(status: str, body: bytes, kind: str = "text/html", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


JSON, XML = "application/x-amz-json-1.0", "text/xml"
ANSWERS = {
    "a page": http_answer("200 OK", PAGE),
    "a page as if it were JSON": http_answer("200 OK", PAGE, JSON),
    "a page as if it were XML": http_answer("200 OK", PAGE, XML),
    "a page that refuses": http_answer("403 Forbidden", PAGE),
    "a page that is not there": http_answer("404 Not Found", PAGE),
    "a redirection": http_answer("302 Found\r\nLocation: https://example.invalid/", b""),
    "the proxy asks for a password": http_answer("407 Proxy Authentication Required", PAGE),
    "500": http_answer("500 Internal Server Error", b"Internal Server Error", "text/plain"),
    "502 with a page": http_answer("502 Bad Gateway", PAGE),
    "503 with nothing": http_answer("503 Service Unavailable", b""),
    "an empty answer": http_answer("200 OK", b""),
    "an empty object": http_answer("200 OK", b"{}", JSON),
    "a list": http_answer("200 OK", b"[]", JSON),
    "null": http_answer("200 OK", b"null", JSON),
    "half a JSON": http_answer("200 OK", b'{"Stacks": [', JSON),
    "foreign XML": http_answer("200 OK", b"<feed><entry/></feed>", XML),
    "half an XML": http_answer("200 OK", b"<DescribeStacksResponse><Desc", XML),
    "not UTF-8": http_answer("200 OK", b"\xff\xfe\x00garbage", JSON),
    "half an answer": http_answer("200 OK", b"{}", JSON, length=1000),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
}


Serve = Callable[[socket.socket, bytes], None]


class Endpoint:
    """A server in place of AWS; ``serve`` handles each connection with its request."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        endpoint = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.request.settimeout(2)
                    endpoint.serve(self.request, read_request(self.request))

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def answering(answer: bytes) -> Serve:
    return lambda connection, _: connection.sendall(answer)


def reset(connection: socket.socket, _: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def too_slow(connection: socket.socket, _: bytes) -> None:
    connection.recv(1)  # until the client disconnects


SERVES = {**{name: answering(answer) for name, answer in ANSWERS.items()}, "reset": reset, "slow": too_slow}


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: *(\d+)", head.lower())
    while found and len(body) < int(found[1]):
        body += connection.recv(65_536)
    return head + body


APP = Path(__file__).parents[2] / "apps/numpy_mean"
COMMANDS = [
    "run list",
    "devices",
    "devices --missing --task digits",
    "devices list --all --where battery>=3 --group g",
    "devices show press-1",
    "devices forget press-1 --yes",
    "devices logs press-1",
    "run start r task=digits",
    "run start r task=digits --continue-from other/3",
    "run start r task=digits --model {model}",
    *(f"run {action} r" for action in ("pause", "resume", "cancel", "retry", "next", "status")),
    "run start r task=digits --dry-run",
    "run follow r",
    "run wait r",
    "run download r --out {folder}",
    "run compare r s",
    "report r --out {folder}",
    "run report r --out {folder}",
    "run watch r",
    "run track r --sink jsonl:{folder}/figures.jsonl",
    "devices logs press-1",
    "model list",
    "model show r/1",
    "model pull r/1 --out {folder}.safetensors",
    "model export r/1 --format pytorch --out {folder}.pt",
    "model diff r/1 r/2",
    "model promote r/1 --alias production",
    "model rollback --alias production --task digits",
    "model import {model} --name base --task digits --no-check",
    "watch --seconds 5",
    "run repair r",
    "run repair r --dry-run",
    "stats start s --task digits",
    "stats show s",
    "stats compare s t",
    "stats list",
    "queue show",
    "queue redrive",
    "fleet provision --things a,b --group g --out {folder}",
    "fleet provision --things a --group g --out {folder} --nucleus lite",
    "fleet remove --things a --yes",
    "fleet remove --things a --dry-run",
    "deploy cloud",
    "deploy down --yes",
    "deploy down --dry-run",
    "deploy devices --group g",
    "deploy devices --group g --remove --watch",
    "deploy devices --thing press-1 --option digits.share=3",
    "deploy component trainer",
    "deploy component trainer --remove",
    "flower run {app}",
    "flower run {app} --detach",
    "flower resume r {app}",
    "flower resume r --detach",
    "flower serve r",
]


@pytest.fixture
def words(tmp_path: Path, model: bytes) -> Callable[[str], list[str]]:
    """Fill in the files that a command names."""
    (tmp_path / "model.safetensors").write_bytes(model)
    places = {"model": tmp_path / "model.safetensors", "folder": tmp_path / "out", "app": APP}
    return lambda command: command.format(**places).split()


@pytest.fixture(scope="module")
def model() -> bytes:
    import numpy as np  # noqa: PLC0415 - few of these tests need it

    from fedgrass.federation.weights import encode  # noqa: PLC0415 - as above

    return encode({"w": np.ones(3, np.float32)})


@pytest.fixture(autouse=True, scope="module")
def aws() -> Iterator[Endpoint]:
    """Replace AWS by an endpoint, without retries, which would not change the result."""
    config = Config(
        connect_timeout=5, read_timeout=0.3, retries={"total_max_attempts": 1, "mode": "standard"}
    )
    with pytest.MonkeyPatch.context() as patch, Endpoint(reset) as endpoint:
        patch.setattr(stack, "_CONFIG", config)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_REGION", "eu-west-1")
        patch.setenv("AWS_ENDPOINT_URL", endpoint.url)
        stack.client.cache_clear()
        yield endpoint
        stack.client.cache_clear()


@pytest.fixture(autouse=True)
def _nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with open(os.devnull, encoding="utf-8") as nothing:  # noqa: PTH123 - a device file
        monkeypatch.setattr("sys.stdin", nothing)
        yield


def assert_one_line(
    words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """Run a command that cannot succeed; return its one line of error."""
    monkeypatch.setattr(sys, "argv", ["fedgrass", *words])
    with pytest.raises(SystemExit) as ended:
        main.command()
    captured = capfd.readouterr()
    code = ended.value.code
    # The checks of a task and the demo report on standard output.
    reported = [line for line in captured.out.splitlines() if line.startswith(("FAIL", "fedgrass "))]
    error = code if isinstance(code, str) else captured.err or "\n".join(reported)
    lines = error.splitlines()
    assert code not in {0, None}, (words, captured.out)
    assert len(lines) == 1, (error, captured.out)
    assert "Traceback" not in error + captured.out
    assert "internal error" not in error
    assert "\x1b" not in error + captured.out
    assert len(lines[0]) <= 2_100
    return lines[0]


Said = Callable[[Sequence[str]], str]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Said:
    """Run a command that cannot succeed, and return its one line of error."""
    return lambda words: assert_one_line(words, monkeypatch, capfd)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_answer_that_is_not_aws_s_is_one_line(
    command: str, words: Callable[[str], list[str]], aws: Endpoint, said: Said
) -> None:
    for name, serve in SERVES.items():
        aws.serve = serve
        try:
            assert len(said(words(command))) > 20, name
        except BaseException as error:
            message = f"{command} where the endpoint gives {name}: {type(error).__name__} {error}"
            raise AssertionError(message) from error


OUTPUTS = {
    "InitiatorName": "initiator",
    "RoundsTableName": "rounds",
    "DevicesTableName": "devices",
    "TurnaroundsTableName": "turnarounds",
    "BucketName": "bucket",
    "DeadLettersQueueUrl": "http://127.0.0.1/queue",
    "Fleet": "fedgrass",
    "DeviceRoleArn": "arn:aws:iam::123456789012:role/device",
    "DevicePolicyName": "device",
}
IDENTITY = (
    "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/o</Arn>"
    "<Account>123456789012</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId>"
    "</ResponseMetadata></GetCallerIdentityResponse>"
)
STACK = (
    "<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>fedgrass</StackName>"
    "<StackStatus>CREATE_COMPLETE</StackStatus><Outputs>{}</Outputs></member></Stacks></DescribeStacksResult>"
    "<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></DescribeStacksResponse>"
).format(
    "".join(
        f"<member><OutputKey>{key}</OutputKey><OutputValue>{value}</OutputValue></member>"
        for key, value in OUTPUTS.items()
    )
)


def after_a_good_start(serve: Serve) -> Serve:
    """Respond like AWS to requests for the identity and the stack; to all others by ``serve``."""

    def answer(connection: socket.socket, request: bytes) -> None:
        for action, body in ((b"Action=GetCallerIdentity", IDENTITY), (b"Action=DescribeStacks", STACK)):
            if action in request:
                connection.sendall(http_answer("200 OK", body.encode(), XML))
                return
        serve(connection, request)

    return answer


@pytest.mark.parametrize("command", COMMANDS)
def test_an_endpoint_that_breaks_on_the_way_is_one_line(
    command: str,
    words: Callable[[str], list[str]],
    aws: Endpoint,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "fedgrass.console.deploy.deploy_cloud._build", lambda target, *_: target.write_bytes(b"zip")
    )
    for name, serve in SERVES.items():
        aws.serve = after_a_good_start(serve)
        try:
            assert len(said(words(command))) > 20, name
        except BaseException as error:
            message = f"{command} where the endpoint then gives {name}: {type(error).__name__} {error}"
            raise AssertionError(message) from error


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "nonsense", "http://[", ""]
)
@pytest.mark.parametrize("command", COMMANDS[::4])
def test_an_endpoint_that_is_not_there_is_one_line(
    command: str,
    url: str,
    words: Callable[[str], list[str]],
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", url.format(port=port) or "http://no.such.host.invalid")
    stack.client.cache_clear()
    said(words(command))
    stack.client.cache_clear()


DEEP = "[" * 5_000 + "]" * 5_000
FILES: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 40,
    "not UTF-8": b'{"task": "\xff\xfe"}',
    "nested too deep": DEEP.encode(),
    "objects nested too deep": (b'{"a":' * 20_000) + b"1" + b"}" * 20_000,
    "a list": b"[1, 2]",
    "a text": b'"digits"',
    "a number of 5,000 digits": b'{"rounds": ' + b"9" * 5_000 + b"}",
    "half a JSON": b'{"task": ',
    "a page": PAGE,
    "NUL": b"\x00" * 1_000,
    "escape": b"\x1b[2J: \x1b]0;owned\x07",
    "an alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n".encode() for i in range(8)
    ),
}
FILE_ARGUMENTS = [
    "run start r task=digits --settings-file {file}",
    "run start r task=digits --model {file}",
    "deploy devices --group g --configuration {file}",
    "deploy devices --options-table {file}",
    "deploy cloud --strategy {file}",
    "core run --recipe {file}",
    "core run --recipe {recipe} --config {file}",
    "core run --recipe {recipe} --secrets {file}",
    "core deploy --recipe {file}",
    "core deploy --recipe {recipe} --config {file}",
    "core configure com.example.Printer {file}",
    "model import {file} --name base --task digits",
]
FOLDER_ARGUMENTS = [
    "task check own:Own --path {file}",
    "task new cracks --folder {file}",
    "task weights noise --out {file}/model.safetensors",
    "task publish own:Own --version 1.0.0 --path {file}",
    "fleet provision --things a --group g --out {file}",
    "flower add {file}",
    "flower check {file}",
    "flower initial-model {file} --out x.safetensors",
    "flower run {file}",
    "flower resume r {file}",
    "core run --recipe {recipe} --root {file}",
    "core publish a/b @{file}",
    "demo --task own=own:Own --task-path {file} --out {file}",
]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Return paths that cannot be read or written, by the reason."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    return {
        "not there": tmp_path / "missing",
        "a folder": tmp_path / "folder",
        "below a file": tmp_path / "file" / "below",
        "a loop of links": loop,
        "a name that is too long": tmp_path / ("x" * 300),
        "a path that is too long": tmp_path / "/".join(["x" * 200] * 30),
        "endless": Path("/dev/zero"),
        "a device that refuses": Path("/proc/self/mem"),
    }


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "RecipeFormatVersion: '2020-01-25'\nComponentName: com.example.Printer\nComponentVersion: 1.0.0\n"
        "Manifests: [{Platform: {os: linux}, Lifecycle: {run: 'true'}}]\n"
    )
    return path


@pytest.mark.parametrize("command", FILE_ARGUMENTS)
def test_a_file_with_anything_else_in_it_is_one_line(
    command: str, recipe: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        if name == "empty" and "--config " in command:
            continue
        file = tmp_path / "input.json"
        file.write_bytes(content)
        try:
            said(command.format(file=file, recipe=recipe).split())
        except BaseException as error:
            message = f"{command} with a file of {name}: {type(error).__name__} {error}"
            raise AssertionError(message) from error


@pytest.mark.parametrize("command", FILE_ARGUMENTS)
def test_a_file_that_cannot_be_read_is_one_line(
    command: str, recipe: Path, places: dict[str, Path], said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    for name, place in places.items():
        try:
            said(command.format(file=place, recipe=recipe).split())
        except BaseException as error:
            message = f"{command} with a file that is {name}: {type(error).__name__} {error}"
            raise AssertionError(message) from error


@pytest.mark.parametrize("command", FOLDER_ARGUMENTS)
def test_a_place_that_cannot_be_used_is_one_line(
    command: str, recipe: Path, places: dict[str, Path], said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    for name in ("below a file", "a loop of links", "a name that is too long", "a path that is too long"):
        try:
            said(command.format(file=places[name], recipe=recipe).split())
        except BaseException as error:
            message = f"{command} at a place that is {name}: {type(error).__name__} {error}"
            raise AssertionError(message) from error


NUMBERS = [
    "-1",
    "nan",
    "inf",
    "-inf",
    "9" * 5_000,
    "\u00b2",
    "\u0663",
    "0x10",
    "1e3x",
    "",
    " ",
    "1_0",
    "\x1b[2J",
    "one",
]
NUMBER_ARGUMENTS = [
    "simulate --rounds",
    "simulate --devices",
    "simulate --seed",
    "simulate --workers",
    "simulate --held-out-every",
    "simulate --seeds",
    "swarm --devices",
    "swarm --rounds",
    "swarm --megabytes",
    "swarm --ramp",
    "swarm --processes",
    "swarm --averagers",
    "swarm --work-seconds",
    "swarm --slow",
    "swarm --slow-factor",
    "swarm --vanish",
    "swarm --return",
    "swarm --double",
    "swarm --heartbeat-seconds",
    "swarm --seed",
    "demo --devices",
    "demo --mqtt-devices",
    "demo --rounds",
    "demo --gateway-port",
    "demo --mqtt-port",
    "devices list --within-seconds",
    "devices show press-1 --within-seconds",
    "devices logs press-1 --lines",
    "devices logs press-1 --wait-seconds",
    "run show r --last",
    "run status r --last",
    "run wait r --timeout",
    "run download r --model",
    "model list --last",
    "watch --count",
    "watch --seconds",
    "dashboard --port",
    "devices list --limit",
    "devices show a --rounds",
    "devices logs a --lines",
    "devices logs a --wait-seconds",
    "doctor --certificates",
    "run start r task=digits --continue-from",
    "run show r --last",
    "run wait r --timeout",
    "run download r --model",
    "task check noise --examples",
    "task check noise --seconds",
    "task weights noise --out x --seed",
    *(f"stats start s --task digits --{one}" for one in ("bins", "quantiles", "sketch-k", "most-labels")),
    *(f"stats start s --task digits --{one}" for one in ("minimum-devices", "epsilon")),
    "core inject broker-cut --amount",
    "core inject broker-cut --seconds",
    "core publish a b --qos",
    "deploy cloud --timeout-minutes",
    "deploy down --timeout-minutes",
    "deploy devices --group g --rate",
    "deploy devices --thing a --option digits.share=1 --at-once",
    "deploy devices --group g --timeout-minutes",
    "deploy devices --group g --abort-percent",
    "deploy devices --group g --update-seconds",
    "deploy devices --group g --cpus",
    "deploy devices --group g --memory-megabytes",
    "deploy devices --group g --watch",
    *(f"flower {command} --seconds" for command in ("add a", "check a", "initial-model a --out x")),
    *(f"costs --{name}" for name in ("devices", "devices-per-round", "model-megabytes", "up-megabytes")),
    *(f"costs --{name}" for name in ("down-megabytes", "rounds-per-month", "heartbeat-seconds")),
]


@pytest.mark.parametrize("command", NUMBER_ARGUMENTS)
@pytest.mark.parametrize("prefix", ["", "other/"])
def test_what_is_no_number_is_one_line(command: str, prefix: str, said: Said) -> None:
    if prefix and "--continue-from" not in command:
        return
    for number in NUMBERS:
        *words, flag = command.split()
        try:
            line = said([*words, f"{flag}={prefix}{number}"])
        except BaseException as error:
            message = f"{command} {number[:20]!r}: {type(error).__name__} {error}"
            raise AssertionError(message) from error
        assert "9" * 100 not in line


SETTINGS = [
    "rounds=" + "9" * 5_000,
    "rounds=NaN",
    "rounds=1e999",
    "rounds=\u00b2",
    "rounds=-1",
    "rounds=" + DEEP,
    "training=" + DEEP,
    "task=" + "x" * 100_000,
    "task=\x1b[2J",
    "no_such=1",
    "rounds",
    "=3",
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda text: repr(text[:20]))
def test_a_setting_that_is_none_is_one_line(setting: str, said: Said) -> None:
    said(["run", "start", "r", "task=digits", setting])


@pytest.mark.parametrize(
    "words",
    [
        ["task", "check", "noise", "--option", "x=" + DEEP],
        ["task", "check", "noise", "--setting", "epochs=" + "9" * 5_000],
        ["core", "configure", "c", '{"a":' * 20_000],
        ["core", "run", "--recipe", "r.yaml", "--config", "{" * 3],
        ["run", "status", "\x1b[2J"],
        ["deploy", "cloud", "--parameter", "x"],
        ["deploy", "cloud", "--stack", "\x1b]0;owned\x07"],
        ["deploy", "devices", "--group", "g", "--component", "[/red]"],
        ["fleet", "provision", "--things", "a,,b", "--group", "g", "--out", "x"],
        ["fleet", "provision", "--things", "\u202ea", "--group", "g", "--out", "x"],
        ["nonsense"],
        ["deploy"],
        ["run"],
    ],
    ids=lambda words: " ".join(words)[:40].encode("unicode_escape").decode(),
)
def test_other_words_that_mean_nothing_are_one_line(words: list[str], said: Said, aws: Endpoint) -> None:
    aws.serve = after_a_good_start(reset)
    said(words)


ENDINGS = {
    "os._exit(0)": "exit code 0",
    "os._exit(3)": "exit code 3",
    "os.kill(os.getpid(), 9)": "SIGKILL",
    "os.abort()": "SIGABRT",
    "raise SystemExit": "SystemExit",
    "raise SystemExit('no')": "SystemExit: no",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise GeneratorExit": "GeneratorExit",
    "raise BaseException('enough')": "BaseException: enough",
    "raise type('Mine', (BaseException,), {})('\x1b[2J')": "Mine: \\x1b[2J",
    "raise MemoryError": "MemoryError",
    "raise RecursionError('deep')": "RecursionError",
}
OWN_TASK = """
import os
import numpy as np

def end():
    {ending}

{at_import}

class Own:
    def __init__(self):
        {at_construction}
    def examples(self):
        {at_examples}
        return 1
    def initial_weights(self, seed):
        {at_weights}
        return {{"w": np.ones(3, np.float32)}}
    def evaluate(self, *_):
        pass
    def fit(self, *_):
        pass
"""


@pytest.mark.parametrize("command", ["check own:Own", "weights own:Own --out new.safetensors"])
@pytest.mark.parametrize("place", ["at_import", "at_construction", "at_weights"])
def test_a_task_that_ends_its_process_or_raises_anything_is_reported(
    command: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for ending, words in ENDINGS.items() if place == "at_weights" else list(ENDINGS.items())[1:9:3]:
        at = dict.fromkeys(("at_import", "at_construction", "at_examples", "at_weights"), "pass") | {
            place: "end()"
        }
        (tmp_path / "own.py").write_text(OWN_TASK.format(ending=ending, **at))
        monkeypatch.setattr(sys, "argv", ["fedgrass", "task", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main.command()
        captured = capfd.readouterr()
        said = captured.out + captured.err + str(ended.value.code)
        assert ended.value.code not in {0, None}, ending
        assert words in said, (ending, said)
        assert "Traceback" not in said, ending
        assert "\x1b" not in said, ending
        assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "stats start look",
            "fedgrass stats start: --task is required; see `fedgrass stats start --help`",
        ),
        ("run pauze one", "fedgrass run: unknown command 'pauze': did you mean pause?; see `fedgrass run"),
        (
            "run start one task=digits --modle 0.safetensors rounds=2",
            "fedgrass run start: unknown option: --modle: did you mean --model?; see `fedgrass run start",
        ),
        # An abbreviation of --settings-file would be "cannot be read: No such file".
        (
            "run start one --settings {}",
            "unknown option: --settings: did you mean --settings-file?",
        ),
        ("runs --\x1b[31mx", "fedgrass: `fedgrass runs` has become `fedgrass run list`"),
        ("run list --\x1b[31mx", "fedgrass run list: unknown option: --\\x1b[31mx"),
    ],
)
def test_wrong_words_are_one_line_without_the_usage(line: str, expected: str, said: Said) -> None:
    assert expected in said(line.split(" "))


# Commands without AWS and files, in which only the words can be wrong.
# (convert-pickle first prints a line about its risks.)
HARMLESS = {"core list", "core stop", "dashboard", "model convert-pickle"}


def test_every_command_is_in_one_of_these_tables() -> None:
    tried = [*COMMANDS, *FILE_ARGUMENTS, *FOLDER_ARGUMENTS, *NUMBER_ARGUMENTS]
    missing = {
        " ".join(words)
        for words, _ in commands()
        if " ".join(words) not in HARMLESS and not any(one.startswith(" ".join(words)) for one in tried)
    }
    assert not missing


def test_every_number_and_every_file_of_a_command_line_is_tried() -> None:
    """Numbers are parsed by typed_options.py, and each option is in NUMBER_ARGUMENTS."""
    for words, app in commands():
        command = " ".join(words)
        for argument in app.assemble_argument_collection():
            kinds = {argument.hint, *get_args(argument.hint)}
            if not argument.parse or not kinds & {int, float}:
                continue
            # int() and float() take underscores, spaces and digits of other scripts.
            assert argument.parameter.converter, f"{command} {argument.name}: parse it by typed_options.py"
            assert any(one.startswith(command) and one.endswith(argument.name) for one in NUMBER_ARGUMENTS), (
                f"{command} {argument.name}"
            )


ONE_OUTPUT = (
    "<Outputs><member><OutputKey>InitiatorName</OutputKey><OutputValue>i</OutputValue></member></Outputs>"
)
READERS = [one for one in COMMANDS if not one.startswith(("deploy cloud", "deploy down"))]


@pytest.mark.parametrize("command", READERS)
def test_a_stack_that_lacks_an_output_is_one_line(
    command: str, words: Callable[[str], list[str]], aws: Endpoint, said: Said
) -> None:
    """A stack of an older version has the output that identifies it, and may lack any other."""
    older = re.sub("<Outputs>.*</Outputs>", ONE_OUTPUT, STACK).encode()

    def serve(connection: socket.socket, request: bytes) -> None:
        if b"Action=DescribeStacks" in request:
            connection.sendall(http_answer("200 OK", older, XML))
        elif b"Action=GetCallerIdentity" in request:
            connection.sendall(http_answer("200 OK", IDENTITY.encode(), XML))
        else:
            connection.sendall(ANSWERS["a page that refuses"])

    aws.serve = serve
    said(words(command))
