"""Writes small files in the formats of the published data sets."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np

AIR_HEAD = (
    '"No","year","month","day","hour","PM2.5","PM10",'
    '"SO2","NO2","CO","O3","TEMP","PRES","DEWP","RAIN","wd","WSPM","station"'
)


def write_mnist(folder: Path, training: int = 60, test: int = 20, *, packed: bool = True) -> Path:
    """Write four IDX files; the brightness of an image is its label."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", training), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.repeat(labels * 20, 784).astype(np.uint8)
        _write(folder / f"{part}-images-idx3-ubyte", _idx(images, count, 28, 28), packed=packed)
        _write(folder / f"{part}-labels-idx1-ubyte", _idx(labels, count), packed=packed)
    return folder


def write_cifar10(folder: Path, per_file: int = 20) -> Path:
    """Write the six files of the binary version, in a folder named as in the archive."""
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir(parents=True, exist_ok=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        records = np.zeros((per_file, 3073), np.uint8)
        records[:, 0] = np.arange(per_file) % 10
        records[:, 1:1025] = 200  # red
        records[:, 1025:2049] = records[:, :1] * 20  # the label determines the green
        records[:, 1025] = 7  # the first pixel's green
        (inner / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def write_air(folder: Path, station: str, days: int = 200, change: Callable[[str], str] = str) -> Path:
    """Write a station's CSV: one row per day from October 2016 on, with PM2.5 half of PM10."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [AIR_HEAD]
    for number in range(days):
        day = np.datetime64("2016-10-01") + np.timedelta64(number, "D")
        year, month, date = str(day).split("-")
        pm10 = 20 + number * 37 % 200
        lines.append(
            f"{number + 1},{year},{int(month)},{int(date)},{number % 24},{pm10 / 2},{pm10},4,8,300,81,"
            f'-0.5,1024.5,-21.4,0,"NNW",5.7,"{station}"'
        )
    path = folder / f"PRSA_Data_{station}_20130301-20170228.csv"
    path.write_text(change("\n".join(lines) + "\n"))
    return path


def _idx(values: np.ndarray[tuple[int], np.dtype[np.uint8]], *shape: int) -> bytes:
    head = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
    return head + values.tobytes()


def _write(path: Path, data: bytes, *, packed: bool) -> None:
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)
