"""A global model as devices download it: a whole file, encoded once for all of them."""

import io

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings.decoding import decode
from fedgrass.federation.encodings.encoder import encode
from fedgrass.federation.encodings.encoding_layouts import check_download, model_layout
from fedgrass.federation.messages.encoding_settings import Encoding
from fedgrass.federation.weights import read_layout, sha256, views, write
from fedgrass.federation.weights.weights_layout import Layout


def encode_model(model: bytes | bytearray | memoryview, encoding: Encoding) -> bytes:
    """Return the file that devices download in place of ``model``, a model's own file.

    The same model gives the same bytes, whoever encodes it: its SHA-256 seeds the stochastic rounding.

    Raises:
        SettingsError: models are not downloaded in this encoding, or not this one.
        UpdateRefused: ``model`` is no weights file, or has values that the encoding cannot hold.
    """
    model = memoryview(model)
    layout = read_layout(model, len(model))
    check_download(layout, encoding)
    rng = np.random.default_rng(int(sha256(model), 16))
    target = io.BytesIO()
    write(encode(views(model, layout), layout, encoding, rng), target)
    return target.getvalue()


def decode_model(
    data: bytes | memoryview, encoding: Encoding
) -> tuple[dict[str, NDArray[np.generic]], Layout]:
    """Return the arrays of a downloaded file, and the layout of the model's own file.

    The file alone tells which arrays were encoded: of those of its type all were, in int8 those with a scale.

    Raises:
        UpdateRefused: the file is truncated, or not what any model becomes in the encoding.
    """
    model = model_layout(read_layout(data, len(data)), encoding)
    return decode(data, model, encoding), model
