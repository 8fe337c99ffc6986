"""The choice of an encoding, as in a run's settings and in an announcement.

Kept out of encodings/, which imports numpy: the trainer's main process reads announcements without numpy.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from fedgrass.federation.errors import SettingsError

Kind = Literal["float32", "float16", "bfloat16", "int8", "top_k"]
ModelKind = Literal["float32", "float16", "bfloat16", "int8"]  # of downloaded models
Fraction = Annotated[float, Meta(gt=0, le=0.5)]

LARGEST_FRACTION = 0.5


class Encoding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the float32 arrays of a model are stored in a file; all other arrays are stored unchanged.

    ``difference``: the float32 arrays hold the change made by training, not the trained weights.
    ``fraction``: the share of a block's values that ``top_k`` sends; other kinds ignore it.
    """

    kind: Kind = "float32"
    difference: bool = False
    fraction: Fraction = 0.01


def check_encoding(encoding: Encoding) -> None:
    """Check that the fields of an encoding fit together.

    Raises:
        SettingsError: The message names the field, its value and the way out.
    """
    if encoding.kind == "top_k" and not encoding.difference:
        message = (
            "the encoding 'top_k' sends the largest changes and needs difference: true;"
            " of full weights it would drop nearly all"
        )
        raise SettingsError(message)
    if not 0 < encoding.fraction <= LARGEST_FRACTION:
        message = (
            f"the encoding's fraction is {encoding.fraction}; it takes a number above 0 and up to"
            f" {LARGEST_FRACTION} (beyond that, indices and values take more bytes than the whole array)"
        )
        raise SettingsError(message)


def check_model_encoding(encoding: Encoding) -> None:
    """Check that an encoding is allowed for downloaded models.

    Raises:
        SettingsError: It is an encoding for differences.
    """
    if encoding.kind == "top_k" or encoding.difference:
        message = "a model cannot be downloaded as a difference: choose float32, float16, bfloat16 or int8"
        raise SettingsError(message)
