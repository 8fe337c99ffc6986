"""The files of MNIST without compression: each virtual device reads them, which is faster then."""

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def has_mnist(folder: Path) -> bool:
    """Return whether a folder has the four files, plain or compressed by gzip."""
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in _NAMES)


@contextmanager
def plain_mnist(folder: Path) -> Iterator[Path | None]:
    """Give a temporary folder with the four files as they are without gzip; None if the folder lacks one."""
    if not has_mnist(folder):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as temporary:
        for name in _NAMES:
            plain = folder / name
            content = (
                plain.read_bytes()
                if plain.is_file()
                else gzip.decompress((folder / f"{name}.gz").read_bytes())
            )
            (Path(temporary) / name).write_bytes(content)
        yield Path(temporary)
