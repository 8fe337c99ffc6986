"""Where the sources of what is deployed are: in a checkout, or in the copy that the wheel carries.

``components``, ``cloud_functions``, ``package.py``, the template and the recipes are at the checkout's root.
A wheel has one top-level name: it holds them in ``fedgrass/_sources``, which is searched for modules too.
"""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLED = _PACKAGE / "_sources"
ROOT = _BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent


def add_to_path() -> None:
    """Let the modules of the sources be imported; last, so that nothing there hides a library."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))


def recipe_of(component: str) -> str:
    """Return the recipe of a component by its full name, with its placeholders."""
    return (ROOT / "recipes" / f"{component}.yaml").read_text(encoding="utf-8")
