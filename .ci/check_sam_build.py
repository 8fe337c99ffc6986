"""Check that the result of `sam build` can be deployed: handlers, their packages, included files.

    .venv-sam/bin/python .ci/check_sam_build.py        in the folder of the project, after `sam build`

`sam build` itself succeeds whatever a makefile leaves in its folder. The functions that package.py built for
the other machine, in .aws-sam/arm64, are checked too.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_parse

BUILT = Path(".aws-sam/build")
LARGEST = 250 * 1024**2  # unpacked bytes, the limit of Lambda
PACKAGES = (
    "aws_lambda_powertools",
    "cloud_functions",
    "fedgrass/federation",
    "msgspec",
    "numpy",
    "safetensors",
    "xxhash",
)


ELF_MACHINES = {"x86_64": 62, "arm64": 183}  # in the header of a shared library


def main() -> None:
    """Exit with all errors, or print the functions that can be deployed."""
    template = yaml_parse((BUILT / "template.yaml").read_text())
    functions = {
        name: resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    wrong = [line for name, properties in functions.items() for line in _mistakes(name, properties)]
    machine = template["Parameters"]["Architecture"]["Default"]
    for name, properties in functions.items():
        wrong += _foreign(name, BUILT / properties["CodeUri"], machine)
    wrong += _foreign("arm64", Path(".aws-sam/arm64"), "arm64")
    missing = [place for place in _included(template) if not (BUILT / place).is_file()]
    wrong += [f"{place} is included but does not exist" for place in missing]
    if wrong or not functions:
        sys.exit("\n".join(wrong) or "sam build has built no function")
    print(f"sam build: {', '.join(functions)} can be deployed")  # noqa: T201 - run by make


def _mistakes(name: str, properties: dict[str, Any]) -> Iterator[str]:
    folder = BUILT / properties["CodeUri"]
    handler = folder / Path(*properties["Handler"].split(".")[:-1]).with_suffix(".py")
    if not handler.is_file():
        yield f"{name}: its handler {handler} does not exist"
    for package in PACKAGES:
        if not (folder / package).is_dir():
            yield f"{name}: {folder} has no {package}"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LARGEST:
        yield f"{name}: {size / 1e6:.0f} MB, more than Lambda accepts"


def _foreign(name: str, folder: Path, machine: str) -> Iterator[str]:
    """Yield the shared libraries that are not built for the machine."""
    libraries = [*folder.rglob("*.so"), *folder.rglob("*.so.*")]
    if not libraries:
        yield f"{name}: {folder} has no shared library, although numpy has some"
    for library in libraries:
        with library.open("rb") as file:
            header = file.read(20)
        if int.from_bytes(header[18:20], "little") != ELF_MACHINES[machine]:
            yield f"{name}: {library} is not built for {machine}"


def _included(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("Name") == "AWS::Include":
            yield node["Parameters"]["Location"]
        for value in node.values():
            yield from _included(value)
    elif isinstance(node, list):
        for value in node:
            yield from _included(value)


if __name__ == "__main__":
    main()
