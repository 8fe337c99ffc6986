"""The numbers by which Flower's apps know devices and runs: derived from their names, the same everywhere."""

import hashlib

_BYTES = 8  # Flower's ids are unsigned integers of 64 bits
_RESERVED = 2  # 0 stands for none, and 1 for Flower's own server


def node_id(thing: str) -> int:
    """Return the node id of a device: the first 8 bytes of the SHA-256 of its thing name, big-endian.

    It is never 0 or 1, which Flower reserves. Two devices of a fleet of 10,000 have the same id with a
    probability of 3e-12.
    """
    return _id_of(thing)


def run_id(run: str) -> int:
    """Return the id of a run, derived from its name as a node id from that of a device."""
    return _id_of(run)


def _id_of(name: str) -> int:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:_BYTES], "big")
    return number if number >= _RESERVED else number + _RESERVED
