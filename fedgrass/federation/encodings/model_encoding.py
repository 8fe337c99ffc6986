"""A global model encoded for download: a whole file, encoded once for all devices."""

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

    Deterministic: the stochastic rounding is seeded with the model's SHA-256, so that all workers produce the
    same bytes.

    Raises:
        SettingsError: This encoding is not for models, or not for this one.
        UpdateRefused: ``model`` is not a weights file, or has values that the encoding cannot express.
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
    """Return the arrays of a downloaded file, in the model's shapes and types, and the model's layout.

    The file is sufficient to find the encoded arrays: all of the encoding's type, in int8 all with a scale.

    Raises:
        UpdateRefused: The file is truncated, or not an encoded model.
    """
    model = model_layout(read_layout(data, len(data)), encoding)
    return decode(data, model, encoding), model
