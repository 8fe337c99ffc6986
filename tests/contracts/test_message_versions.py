"""Component and cloud one minor version apart: messages of earlier releases are decoded by the current code.

``golden/<release>/`` has one message of each kind as that release's code wrote it, with a value in every
field. These files never change; a new minor release adds a folder. The folder of a release whose version of
the messages is no longer supported may be removed along with that support.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedgrass.federation import messages
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import Message, WorkMessage, message_codec, message_types
from fedgrass.federation.messages.message_types import newest_common, parse_versions
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.filters import Requirements
from fedgrass.federation.topics import Kind
from tests.fakes.small_fleet import SmallFleet

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*/*.json"))
KINDS: dict[str, type[Message]] = {
    "".join("_" + sign.lower() if sign.isupper() else sign for sign in kind.__name__).lstrip("_"): kind
    for kind in message_codec._DECODERS
}


def each(paths: list[Path]) -> pytest.MarkDecorator:
    ids = [f"{path.parent.name}-{path.stem}" for path in paths]
    return pytest.mark.parametrize("path", paths, ids=ids)


ABOUT_WORK = [path for path in GOLDEN if issubclass(KINDS[path.stem], WorkMessage)]


def golden(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def decoded(path: Path, **more: Any) -> Message:
    return messages.decode(json.dumps({**golden(path), **more}).encode(), KINDS[path.stem])


def test_every_kind_of_message_is_kept_of_every_release() -> None:
    releases = {path.parent for path in GOLDEN}
    assert {release.name for release in releases} >= {"1.0"}
    newest = max(releases, key=lambda release: tuple(map(int, release.name.split("."))))
    assert {path.stem for path in newest.iterdir()} == set(KINDS)


@each(GOLDEN)
def test_messages_of_an_older_release_are_decoded(path: Path) -> None:
    assert decoded(path).version in message_types.SPOKEN


@each(GOLDEN)
def test_messages_to_an_older_release_have_all_fields_that_it_knows(path: Path) -> None:
    """Every field of the release still exists, with the same value: fields are added, never changed."""
    said = json.loads(messages.encode(decoded(path)))
    known = golden(path)
    assert {name: said.get(name, "missing") for name in known} == known


@each(GOLDEN)
def test_a_field_that_was_added_since_may_be_missing(path: Path) -> None:
    kind = KINDS[path.stem]
    added = [field for field in msgspec.structs.fields(kind) if field.name not in golden(path)]
    assert [field.name for field in added if field.required] == []


@each(GOLDEN)
def test_a_field_of_a_newer_release_is_ignored(path: Path) -> None:
    assert decoded(path, from_the_future={"a": [1]}) == decoded(path)


@each(ABOUT_WORK)
def test_of_work_a_version_that_is_not_spoken_is_refused_with_those_that_are(path: Path) -> None:
    with pytest.raises(MessageError, match="has version 99; this side supports version 1"):
        decoded(path, version=99)


@each([path for path in GOLDEN if path not in ABOUT_WORK])
def test_messages_to_all_are_decoded_in_every_version(path: Path) -> None:
    assert decoded(path, version=99).version == 99


def test_a_device_of_an_older_release_drops_a_request_for_log_lines() -> None:
    """Its decoder knows the two other messages of the announce topic, and logs what it cannot decode."""
    text = (Path(__file__).parent / "golden" / "1.0" / "log_request.json").read_bytes()
    assert isinstance(messages.decode_announce(text), messages.LogRequest)
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'logs'"):
        msgspec.json.Decoder(messages.Announcement | messages.Verdict).decode(text)


# ------------------------------------------------------------------ the negotiation


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("1", {1}),
        ("3,2", {2, 3}),
        ("", {1}),
        (",", {1}),
        ("2,", {1}),
        ("two", {1}),
        ("9" * 40, {1}),
        ("\u0663", {1}),
    ],
)
def test_the_versions_of_a_device_are_read_from_its_heartbeat(text: str, versions: set[int]) -> None:
    assert parse_versions(text) == versions


@pytest.mark.parametrize(
    ("cloud", "device", "common"),
    [((1,), {1}, 1), ((2, 1), {1}, 1), ((2, 1), {2, 3}, 2), ((2, 1), {1, 2}, 2), ((2, 1), {3, 4}, None)],
)
def test_the_newest_common_version_is_taken(
    monkeypatch: pytest.MonkeyPatch, cloud: tuple[int, ...], device: set[int], common: int | None
) -> None:
    monkeypatch.setattr(message_types, "SPOKEN", cloud)
    assert newest_common(device) == common


def candidate(device: str, *speaks: int) -> Candidate:
    return Candidate(device=device, last_seen=1, tasks=frozenset({"digits"}), speaks=frozenset(speaks))


def test_a_device_without_a_common_version_is_not_chosen_and_the_reason_is_reported() -> None:
    needs = Requirements(task="digits")
    old, new = candidate("old", 1), candidate("new", 3, 2)
    assert [device.device for device in (old, new) if needs.suits(device)] == ["old"]
    assert needs.explain([new]).endswith(
        "0 of them speak messages of version 1; the others speak version 2, 3: deploy a newer version of the"
        " stack"
    )
    assert "version" not in needs.explain([old])


def test_an_old_component_is_named_as_what_to_renew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_types, "SPOKEN", (3, 2))
    words = Requirements(task="digits").explain([candidate("old", 1)])
    assert words.endswith("deploy a newer version of the trainer component")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> SmallFleet:
    """A cloud that supports one version more than the current one, with devices of both releases."""
    monkeypatch.setattr(message_types, "SPOKEN", (2, 1))
    made = SmallFleet(3)
    for name, speaks in zip(made.names, ({1}, {2, 1}, {3, 2}), strict=True):
        known = made.devices.seen[name]
        made.devices.seen[name] = msgspec.structs.replace(known, speaks=frozenset(speaks))
    return made


def test_work_is_announced_to_each_device_in_its_newest_version(fleet: SmallFleet) -> None:
    fleet.start()
    assert [fleet.announced(name)[0].version for name in fleet.names] == [1, 2, 2]
    # After a hello, in the same version again.
    for name in fleet.names:
        assert fleet.say(name, Kind.HELLO, b'{"version": 7}')
    assert [fleet.announced(name)[-1].version for name in fleet.names] == [1, 2, 2]


def test_a_round_is_closed_by_replies_in_several_versions(fleet: SmallFleet) -> None:
    fleet.start()
    for name, version in zip(fleet.names, (1, 2, 2), strict=True):
        assert fleet.reply(name, version=version)
    assert fleet.newest().number == 2
    assert [fleet.verdicts(name)[0].version for name in fleet.names] == [1, 2, 2]


def test_a_device_of_an_unknown_version_is_not_asked(fleet: SmallFleet) -> None:
    stranger = fleet.names[2]
    known = fleet.devices.seen[stranger]
    fleet.devices.seen[stranger] = msgspec.structs.replace(known, speaks=frozenset({9}))
    fleet.start()
    assert fleet.announced(stranger) == []
    assert len(fleet.announced(fleet.names[0])) == 1
