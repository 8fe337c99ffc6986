"""How the float32 arrays of a model are encoded in an update, or in a model that devices download.

    encoding_layouts.py   the layout of an encoded file
    encoder.py            arrays to a file, with error feedback; whole models for download
    decoding.py           any range of a file to float32
    quantization.py, top_k.py   the arithmetic of each kind
    array_types.py        arrays with another precision than the model's

Pure: no input or output; random generators are arguments.
"""

from fedgrass.federation.encodings.decoding import decode, decode_into, decode_model
from fedgrass.federation.encodings.encoder import Feedback, encode, encode_model
from fedgrass.federation.encodings.encoding_layouts import (
    byte_range,
    check_download,
    check_file,
    check_offsets,
    file_layout,
    is_encoded,
    model_layout,
)
from fedgrass.federation.messages.message_types import Encoding, check_encoding
from fedgrass.federation.weights.slices import BLOCK

__all__ = [
    "BLOCK",
    "Encoding",
    "Feedback",
    "byte_range",
    "check_download",
    "check_encoding",
    "check_file",
    "check_offsets",
    "decode",
    "decode_into",
    "decode_model",
    "encode",
    "encode_model",
    "file_layout",
    "is_encoded",
    "model_layout",
]
