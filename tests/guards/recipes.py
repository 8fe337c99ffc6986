"""The recipes of the components, for the tests that compare them with the code."""

import re
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\{(artifacts:decompressedPath|configuration:/\w+)\}")


def read_recipe(component: str) -> dict[str, Any]:
    """Return the recipe of ``com.fedgrass.<component>``."""
    content: dict[str, Any] = yaml.safe_load(
        (PROJECT / "recipes" / f"com.fedgrass.{component}.yaml").read_text()
    )
    return content


def default_configuration(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that a recipe gives a component by default."""
    found: dict[str, Any] = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    return found


def braces_outside_variables(recipe: dict[str, Any]) -> list[str]:
    """Return the scripts that use braces other than for recipe variables."""
    scripts = [
        manifest["Lifecycle"][step]["Script"]
        for manifest in recipe["Manifests"]
        for step in ("install", "run")
    ]
    return [script for script in scripts if set("{}") & set(_VARIABLE.sub("", script))]
