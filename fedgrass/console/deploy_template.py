"""Reads a SAM template and readies it for CloudFormation, as `sam package` would.

Local files that it refers to are handed to an ``Upload``, and the template is rewritten to point at them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from samtranslator.yaml_helper import yaml_parse

from fedgrass.console.stack import StackError

Upload = Callable[[bytes, str], str]
"""Takes a file's content and the ending of its name, returns where it lies: ``s3://bucket/key``."""


def read_template(template: Path) -> dict[str, Any]:
    """Read a CloudFormation template, its short forms (`!Sub`) spelled out. Raises StackError."""
    try:
        document = yaml_parse(template.read_text(encoding="utf-8"))
    except OSError as exc:
        message = f"{template}: the template cannot be read: {exc.strerror}"
        raise StackError(message) from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        message = f"{template}: the template is not valid YAML: {exc}"
        raise StackError(message) from exc
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        message = f"{template}: the template has no Resources"
        raise StackError(message)
    return document


def packaged(template: Path, lambda_zip: Path, upload: Upload) -> bytes:
    """Upload what a template refers to and return the template, rewritten, as JSON.

    Every function whose CodeUri is local gets the code of ``lambda_zip``; every local ``AWS::Include`` is
    uploaded. All is read before anything is uploaded.

    Raises:
        StackError: a file cannot be read.
    """
    document = read_template(template)
    zipped = _content(lambda_zip, "the Lambda zip (built by package.py)")
    includes = [include for include in _includes(document) if _is_local(include.get("Location"))]
    snippets = [_content(template.parent / one["Location"], f"included by {template}") for one in includes]
    code = upload(zipped, lambda_zip.suffix)
    for properties in _function_properties(document):
        if _is_local(properties.get("CodeUri")):
            properties["CodeUri"] = code
    for include, snippet in zip(includes, snippets, strict=True):
        include["Location"] = upload(snippet, Path(include["Location"]).suffix)
    return json.dumps(document, default=str).encode()


def _content(path: Path, role: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        message = f"{path}: {role}, cannot be read: {exc.strerror}"
        raise StackError(message) from exc


def _function_properties(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the properties of every function, and those that Globals gives to all."""
    functions = [
        resource.setdefault("Properties", {})
        for resource in document["Resources"].values()
        if isinstance(resource, dict) and resource.get("Type") == "AWS::Serverless::Function"
    ]
    shared = (document.get("Globals") or {}).get("Function")
    return [*functions, shared] if isinstance(shared, dict) else functions


def _includes(node: object) -> list[dict[str, Any]]:
    """Return the parameters of every `Fn::Transform: {Name: AWS::Include}` below `node`."""
    if isinstance(node, list):
        return [found for item in node for found in _includes(item)]
    if not isinstance(node, dict):
        return []
    found = [include for value in node.values() for include in _includes(value)]
    transform = node.get("Fn::Transform")
    if isinstance(transform, dict) and transform.get("Name") == "AWS::Include":
        found.append(transform.setdefault("Parameters", {}))
    return found


def _is_local(location: object) -> bool:
    return isinstance(location, str) and not location.startswith(("s3://", "https://"))
