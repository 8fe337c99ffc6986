"""Devices and runs have the same numbers in every process of a fleet."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.task_messages.node_ids import node_id, run_id


def test_a_node_id_is_the_start_of_the_sha_256_of_the_thing_name() -> None:
    assert node_id("edge-1") == int(hashlib.sha256(b"edge-1").hexdigest()[:16], 16) == 0xDF594D71A145ABDC
    assert run_id("edge-1") == node_id("edge-1")


@given(st.text(max_size=128))
def test_a_node_id_fits_64_bits_and_is_neither_0_nor_1(thing: str) -> None:
    assert 2 <= node_id(thing) < 2**64


@pytest.mark.parametrize(("number", "expected"), [(0, 2), (1, 3), (2, 2)])
def test_reserved_numbers_are_avoided(number: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Digest:
        @staticmethod
        def digest() -> bytes:
            return number.to_bytes(8, "big") + bytes(24)

    monkeypatch.setattr(hashlib, "sha256", lambda _: Digest)
    assert node_id("edge-1") == expected
