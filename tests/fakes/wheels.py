"""Small wheels of pure Python, for an index in a folder."""

import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path


def write_wheel(  # noqa: PLR0913 - parts of a wheel
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
    code: str = "",
) -> Path:
    """Write the wheel of a package that has one module of its name; return its path."""
    information = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {one}" for one in requires]
    wheel = ["Wheel-Version: 1.0", "Generator: tests", "Root-Is-Purelib: true", f"Tag: {tag}"]
    files = {
        f"{name}.py": code or f"VERSION = {version!r}\n",
        f"{information}/METADATA": "\n".join(metadata) + "\n",
        f"{information}/WHEEL": "\n".join(wheel) + "\n",
    }
    record = "".join(f"{file},sha256={_digest(text)},{len(text)}\n" for file, text in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{information}/RECORD", record + f"{information}/RECORD,,\n")
    return path


def _digest(text: str) -> str:
    return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()
