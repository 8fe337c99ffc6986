"""Locate the sources that are deployed: in a checkout, or in the copy inside the wheel.

In a checkout, ``components``, ``cloud_functions``, ``package.py``, the template and the recipes are at its
root. A wheel has a single top-level package, so it has them in ``fedgrass/_sources``, which is added to the
module path.
"""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLED = _PACKAGE / "_sources"
ROOT = _BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent


def add_to_path() -> None:
    """Add the sources to the end of the module path, so that they cannot hide an installed library."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))


def recipe_of(component: str) -> str:
    """Return the recipe of a component, by its full name, with placeholders not yet replaced."""
    return (ROOT / "recipes" / f"{component}.yaml").read_text(encoding="utf-8")


def install_extra(name: str) -> str:
    """Return the command that installs an extra; fedgrass itself is on no package index."""
    return f"pip install -c constraints.txt -e '.[{name}]' in the checkout of fedgrass"
