"""The rows of participants in memory are indexed by round, however they are changed."""

import copy

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.rounds import Participant, Participation
from fedgrass.local.in_memory.memory_rounds import MemoryRounds, ParticipantRows

Key = tuple[str, int, int, str]


def row(device: str) -> Participant:
    return Participant(device=device, state=Participation.ASKED, announced_at=1)


keys = st.tuples(
    st.sampled_from(["run", "other"]), st.integers(1, 3), st.integers(1, 2), st.sampled_from("cabd")
)


@given(st.lists(st.tuples(st.booleans(), keys)))
def test_the_index_holds_what_the_rows_hold(changes: list[tuple[bool, Key]]) -> None:
    rows, expected = ParticipantRows(), dict[Key, Participant]()
    for adds, key in changes:
        if adds:
            rows[key] = expected[key] = row(key[3])
        elif key in expected:
            del rows[key], expected[key]
        assert rows.of_round(key[:3]) == [expected[each] for each in sorted(expected) if each[:3] == key[:3]]
    assert dict(rows) == expected
    for copied in (copy.deepcopy(rows), ParticipantRows(expected)):
        for run, number in {key[:2] for key in expected}:
            attempts = sorted({key[2] for key in expected if key[:2] == (run, number)})
            assert set(attempts) <= set(copied.attempts(run, number))
            assert [
                part.device for attempt in attempts for part in copied.of_round((run, number, attempt))
            ] == [key[3] for key in sorted(expected) if key[:2] == (run, number)]


def test_a_changed_row_is_read_as_it_is_now() -> None:
    rows = ParticipantRows({("run", 1, 1, "thing"): row("thing")})
    assert rows.of_round(("run", 1, 1))[0].state is Participation.ASKED
    rows["run", 1, 1, "thing"] = msgspec.structs.replace(row("thing"), state=Participation.ACCEPTED)
    assert rows.of_round(("run", 1, 1))[0].state is Participation.ACCEPTED
    rows.clear()
    assert rows.of_round(("run", 1, 1)) == []
    assert rows.attempts("run", 1) == []


def test_restored_rows_are_indexed_again() -> None:
    store = MemoryRounds()
    store._participants = ParticipantRows({("run", 1, 1, "b"): row("b"), ("run", 1, 1, "a"): row("a")})
    found = list(store.participants_from("run", 1, 5))
    assert [(number, attempt, part.device) for number, attempt, part in found] == [(1, 1, "a"), (1, 1, "b")]
