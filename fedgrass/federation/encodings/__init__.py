"""What the wire carries: how the float32 arrays of a model lie in an update, or in a model to download.

    ../encoding.py which encoding: kind, difference or full weights, fraction
    layouts.py     where everything lies in an encoded file
    encoder.py     arrays to a file, with error feedback      wanted.py    what is to be said of an array
    decoding.py    any range of a file to float32             downloads.py whole models
    floats.py  int8.py  top_k.py                              the arithmetic of each kind

Pure: no input, no output; randomness comes in.
"""

from fedgrass.federation.encoding import Encoding, check_encoding
from fedgrass.federation.encodings.blocks import BLOCK
from fedgrass.federation.encodings.decoding import decode, decode_into
from fedgrass.federation.encodings.downloads import decode_model, encode_model
from fedgrass.federation.encodings.encoder import Feedback, encode
from fedgrass.federation.encodings.layouts import (
    byte_range,
    check_download,
    check_file,
    check_places,
    file_layout,
    is_encoded,
    model_layout,
)

__all__ = [
    "BLOCK",
    "Encoding",
    "Feedback",
    "byte_range",
    "check_download",
    "check_encoding",
    "check_file",
    "check_places",
    "decode",
    "decode_into",
    "decode_model",
    "encode",
    "encode_model",
    "file_layout",
    "is_encoded",
    "model_layout",
]
