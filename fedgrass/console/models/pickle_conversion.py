"""Convert a legacy pickle to safetensors: offline, after a warning, in a child process."""

import sys
from pathlib import Path

from msgspec import Struct

from components.runtime.atomic_file import publish_file, unfinished
from fedgrass.console.models.child_work import in_child
from fedgrass.console.models.model_pull import check_target
from fedgrass.console.options import read
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import LARGEST_MODEL
from fedgrass.console.terminal import complain, prompt, say
from fedgrass.federation.errors import SettingsError

_RISK = (
    "a pickle is a program: loading one runs what its author wrote, with your rights. This command loads only"
    " arrays and plain containers, in a separate process, and refuses everything else by name; a defect of"
    " Python, NumPy or PyTorch could still be used against you. Convert only files whose origin you trust."
)


class ConvertedPickle(Struct, frozen=True, kw_only=True):
    """A pickle that was converted.

    Attributes:
        source: the file that was read.
        file: the safetensors file that was written.
        arrays: how many it has.
        bytes: its size in bytes.
        reader: what has read the pickle.
    """

    source: str
    file: str
    arrays: int
    bytes: int
    reader: str


def convert(output: str, *, source: Path, out: Path, yes: bool, force: bool) -> None:
    """Write the arrays of a pickle to a safetensors file.

    Args:
        output: ``text`` or ``json``.
        source: the pickle.
        out: the file to write.
        yes: whether the operator has agreed to the risk in advance.
        force: whether to replace an existing file.

    Raises:
        SettingsError: the operator did not agree, a file cannot be used, or the pickle has something else.
    """
    check_target(out, force=force)
    read(source, LARGEST_MODEL)
    complain(_RISK)
    if not yes:
        if not sys.stdin.isatty():
            message = "nothing was converted: confirm the risk on a terminal, or with --yes"
            raise SettingsError(message)
        if prompt(f"load {source}? [y/N]").lower() not in {"y", "yes"}:
            message = "nothing was converted"
            raise SettingsError(message)
    part = unfinished(out)
    try:
        found = in_child("pickled_arrays:convert_in_child", source=str(source), target=str(part))
        publish_file(part, out)
    finally:
        part.unlink(missing_ok=True)
    result = ConvertedPickle(
        source=str(source),
        file=str(out),
        arrays=found["arrays"],
        bytes=out.stat().st_size,
        reader=found["reader"],
    )
    show_result(result, output, draw_converted)


def draw_converted(found: ConvertedPickle) -> None:
    """Print what was written."""
    arrays = "1 array" if found.arrays == 1 else f"{found.arrays} arrays"
    say(f"wrote {found.file} ({found.bytes:,} bytes): {arrays}, read by {found.reader}")
