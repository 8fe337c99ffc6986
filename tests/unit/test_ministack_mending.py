"""Which group a request about a schedule is about, as the embedded cloud sees it when policies count."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.local.ministack_mending import group_of


@pytest.mark.parametrize(
    ("body", "query", "group"),
    [
        (b'{"GroupName": "deadlines"}', {}, "deadlines"),
        (b"", {"groupName": ["deadlines"]}, "deadlines"),
        (b"", {"groupName": "deadlines"}, "deadlines"),
        # What is made counts, whatever the query says: else it would be checked as one and made as another.
        (b'{"GroupName": "theirs"}', {"groupName": ["mine"]}, "theirs"),
        (b"{}", {}, "default"),
        (b"", {"groupName": []}, "default"),
        (b"[]", {}, "default"),
        (b'{"GroupName": 7}', {}, "default"),
        (b"\xff", {}, "default"),
    ],
)
def test_the_group_of_a_schedule_is_what_the_service_takes_it_from(
    body: bytes, query: dict[str, object], group: str
) -> None:
    assert group_of(body, query) == group


@given(
    st.binary(max_size=40)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_any_body_has_a_group(body: bytes) -> None:
    assert group_of(body, {})
