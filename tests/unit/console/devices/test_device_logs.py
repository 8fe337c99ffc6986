"""``fedgrass devices logs``: it waits for the device, and bounds, checks and safely prints its answer."""

from pathlib import Path

import msgspec
import pytest

from fedgrass.console.devices import device_logs
from fedgrass.console.devices.device_logs import DeviceLog, fetch_logs, last_logs, line_text, show_logs
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator
from fedgrass.console.runs.fleet_operator import LogTicket
from fedgrass.federation.errors import FedgrassError, MessageError, SettingsError
from fedgrass.federation.messages.device_log import LogHeader, LogLine, encode_log, format_line
from fedgrass.local.in_memory.memory_bucket import MemoryBucket
from tests.documents.golden_files import golden_text

ID = "0123456789abcdef0123456789abcdef"
KEY = f"logs/press-1/{ID}.txt"
NOW = 1_700_000_000_000
LINES = [
    format_line(NOW, "trainer", "INFO in fleet plant as press-1"),
    format_line(NOW + 1, "trainer", "INFO run-a/1/1: accepted: train digits"),
    "a line of another form",
]


def answer(thing: str = "press-1", request: str = ID, lines: list[str] = LINES) -> bytes:
    header = LogHeader(thing=thing, id=request, component_version="1.2.3", written_at=NOW + 1000, lines=0)
    return encode_log(header, lines)


class Clock:
    """A clock that moves when someone sleeps; then the device answers, if it is time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Stack:
    """An initiator that names ``key``, and a device that answers after some seconds."""

    def __init__(self, data: bytes | None, after: float = 0.0, key: str = KEY, last_seen: int = NOW) -> None:
        self.clock = Clock()
        self.bucket = MemoryBucket()
        self.data = data
        self.after = after
        self.ticket = LogTicket("press-1", ID, key, NOW, NOW + 900_000, last_seen)
        self.asked: list[str] = []
        self.notes: list[str] = []
        self.reads: list[tuple[str, int]] = []

    def request_logs(self, device: str) -> LogTicket:
        self.asked.append(device)
        return self.ticket

    def last_log(self, device: str) -> str | None:
        found = [key for key in self.bucket.objects if key.startswith(f"logs/{device}/")]
        return found[-1] if found else None

    def read(self, key: str, largest: int) -> bytes:
        self.reads.append((key, largest))
        if self.data is not None and self.clock.now >= self.after:
            self.bucket.write(KEY, self.data)
        return self.bucket.read(key, largest)

    def fetch(self, lines: int = 1000, wait_seconds: float = 60.0) -> DeviceLog:
        return fetch_logs(
            self, "press-1", lines=lines, wait_seconds=wait_seconds, note=self.notes.append, clock=self.clock
        )


def test_the_lines_are_those_that_the_device_sent() -> None:
    stack = Stack(answer(), after=1.2)
    found = stack.fetch()
    assert [line.text for line in found.lines] == [
        "INFO in fleet plant as press-1", "INFO run-a/1/1: accepted: train digits", "a line of another form"
    ]  # fmt: skip
    assert (found.count, found.left_out, found.waited_seconds, found.key) == (3, 0, 1.5, KEY)
    assert (stack.asked, stack.notes) == (["press-1"], [])


def test_the_json_form_is_stable(capsys: pytest.CaptureFixture[str]) -> None:
    found = Stack(answer(), after=1.2).fetch(lines=2)
    show_result(found, "json", lambda _: None)
    assert capsys.readouterr().out == golden_text("devices-logs")
    assert msgspec.json.decode(golden_text("devices-logs"), type=DeviceLog) == found


def test_a_device_that_does_not_answer_is_named_with_its_last_heartbeat_and_the_way_out() -> None:
    stack = Stack(None, last_seen=NOW - 3 * 86_400_000)
    with pytest.raises(
        FedgrassError, match=r"press-1 did not send .* within 60 s; its last heartbeat came 3 d"
    ) as error:
        stack.fetch()
    assert "--wait-seconds" in str(error.value)
    assert stack.notes == ["press-1 was last seen 3 d ago: it may be offline"]
    assert 58 <= stack.clock.now <= 60
    assert len(stack.reads) < 40


def test_an_answer_of_ten_megabytes_is_refused_and_not_read() -> None:
    stack = Stack(b"x" * 10_000_000)
    with pytest.raises(
        FedgrassError, match=r"answer of press-1 is refused: .* has 10000000 bytes; 524288 is the most"
    ):
        stack.fetch()
    assert stack.reads == [(KEY, 524_288)]


@pytest.mark.parametrize(("thing", "request_id"), [("press-2", ID), ("press-1", "f" * 32)])
def test_the_lines_of_another_device_or_request_are_refused(thing: str, request_id: str) -> None:
    with pytest.raises(MessageError, match="refused"):
        Stack(answer(thing, request_id)).fetch()


def test_only_the_own_key_of_the_device_is_read() -> None:
    stack = Stack(answer(), key=f"logs/press-2/{ID}.txt")
    with pytest.raises(SettingsError, match="the initiator named the key 'logs/press-2"):
        stack.fetch()
    assert stack.reads == []


def test_the_lines_that_were_sent_last_are_shown_without_asking_the_device() -> None:
    stack = Stack(None)
    stack.bucket.write(KEY, answer())
    found = last_logs(stack, "press-1", lines=2)
    assert (found.id, found.count, found.left_out, found.requested_at) == (ID, 2, 1, None)
    assert stack.asked == []
    with pytest.raises(
        FedgrassError, match=r"no log lines of press-2 .* `fedgrass devices logs press-2` asks"
    ):
        last_logs(stack, "press-2", lines=2)
    stack.bucket.write(KEY, answer("press-2"))
    with pytest.raises(MessageError, match="refused"):
        last_logs(stack, "press-1", lines=2)
    stack.bucket.write(KEY, b"x" * 10_000_000)
    with pytest.raises(FedgrassError, match="refused"):
        last_logs(stack, "press-1", lines=2)


HOSTILE = "\x1b[2J\x1b]0;owned\x07 <b>[red]\u202egpj.exe" + "z" * 5_000


def test_a_hostile_line_is_printed_as_text_on_one_line() -> None:
    for line in (
        LogLine(logged_at=NOW, process="worker", text=HOSTILE),
        LogLine(logged_at=None, process="", text=HOSTILE),
    ):
        text = line_text(line)
        assert text.isprintable()
        assert r"\x1b[2J" in text
        assert len(text) < 2_100


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Stack:
    made = Stack(answer(lines=[*LINES, HOSTILE[:100]]))
    monkeypatch.setattr(device_logs, "open_operator", lambda _: made)
    return made


OPTIONS = {"last": False, "wait_seconds": 60.0, "stack_name": "fedgrass"}


@pytest.mark.usefixtures("stack")
def test_the_lines_are_printed_with_their_times(capsys: pytest.CaptureFixture[str]) -> None:
    show_logs("press-1", lines=3, out=None, output="text", **OPTIONS)  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:2] == [
        "2023-11-14 22:13:20 trainer INFO run-a/1/1: accepted: train digits",
        "a line of another form",
    ]
    assert printed.err == "older lines that are not shown: 1; --lines shows more\n"


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_file_gets_the_same_lines(tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "press-1.txt"
    show_logs("press-1", lines=1000, out=out, output=output, **OPTIONS)  # type: ignore[arg-type]
    assert len(out.read_text().splitlines()) == 4
    assert out.read_text().replace("\n", "").isprintable()
    assert ("wrote 4 lines of press-1 to" in capsys.readouterr().out) is (output == "text")


def test_a_name_that_is_none_is_refused_before_anything_is_asked(stack: Stack) -> None:
    with pytest.raises(SettingsError, match="'a/b' cannot name a thing"):
        show_logs("a/b", lines=1, out=None, output="text", **OPTIONS)  # type: ignore[arg-type]
    assert stack.asked == []


def test_an_answer_of_the_initiator_that_is_not_understood_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = fleet_operator.Operator.__new__(fleet_operator.Operator)
    monkeypatch.setattr(operator, "_ask", lambda *_, **__: {"device": 3})
    with pytest.raises(FedgrassError, match=r"not understood: .*fedgrass deploy cloud"):
        operator.request_logs("press-1")
