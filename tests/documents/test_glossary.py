"""docs/glossary.md defines every state and every kind of message of the code."""

import re
from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest

from fedgrass.federation import messages, topics
from fedgrass.federation.messages import Status
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import Participation, State, Work
from fedgrass.federation.runs import RunState
from tests.documents.test_documents import ROOT, rows

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
TERMS = {term.lower() for term in re.findall(r"^- \*\*([^*]+)\*\*", GLOSSARY, re.MULTILINE)}
ABSTRACT = {messages.Message, messages.WorkMessage}  # what messages have in common, never sent


def message_kinds() -> Iterator[str]:
    """Yield the terms of all message classes, such as ``round change`` for RoundChange."""
    for kind in vars(messages).values():
        if isinstance(kind, type) and issubclass(kind, messages.Message) and kind not in ABSTRACT:
            yield re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


@pytest.mark.parametrize(
    ("heading", "states"),
    [
        ("state of a run", RunState),
        ("state of a round", State),
        ("state of a device in a round", Participation),
    ],
)
def test_every_state_is_defined_once(heading: str, states: type[State]) -> None:
    assert [row[0].strip("`") for row in rows(GLOSSARY, heading)] == list(states)


def test_every_kind_of_message_is_defined() -> None:
    kinds = [*message_kinds(), Alarm.__name__.lower(), Reminder.__name__.lower()]
    assert len(kinds) > 10
    assert [kind for kind in kinds if kind not in TERMS] == []


def test_every_word_of_the_protocol_is_named() -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(Status)}
    alarms = {field.name: field.type for field in msgspec.structs.fields(Alarm)}
    words = [*topics.Kind, *Work, *get_args(fields["state"]), *get_args(alarms["kind"])]
    assert len(words) == 16
    assert [word for word in words if f"`{word}`" not in GLOSSARY] == []


def test_no_term_is_defined_twice() -> None:
    terms = re.findall(r"^- \*\*([^*]+)\*\*", GLOSSARY, re.MULTILINE)
    assert len(terms) == len(TERMS) > 80
