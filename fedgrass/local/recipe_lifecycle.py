"""The steps of a component's life, as a recipe spells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

DEFAULT_PHASE_SECONDS: Final = 120
PHASES: Final = ("install", "run", "shutdown")
CLASSIC_PHASES: Final = ("bootstrap", "recover", "startup")
"""Steps that the local core knows under the classic nucleus only."""


class RecipeMap(msgspec.Struct, rename="pascal", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of the recipe's maps: a key that Greengrass does not know is refused."""


class Phase(RecipeMap, frozen=True):
    """One step of a lifecycle."""

    script: str
    timeout: Annotated[int, Meta(gt=0)] = DEFAULT_PHASE_SECONDS
    """Seconds; `run` has none."""
    setenv: dict[str, object] = {}
    requires_privilege: bool = False


class Lifecycle(RecipeMap, rename=None, frozen=True):
    """The steps of a component's life. Nucleus Lite knows them in lower case only."""

    setenv: dict[str, object] = msgspec.field(default_factory=dict, name="Setenv")
    install: str | Phase | None = None
    run: str | Phase | None = None
    shutdown: str | Phase | None = None
    bootstrap: str | Phase | None = None
    startup: str | Phase | None = None
    recover: str | Phase | None = None

    def phase(self, name: str) -> Phase | None:
        """The step of that name, in its long form, or None."""
        step = getattr(self, name)
        return Phase(script=step) if isinstance(step, str) else cast("Phase | None", step)


def spelled_as_lite(document: object) -> object:
    """A recipe in which each step is in lower case, as the classic nucleus reads `Run` and `Install` too."""
    if not isinstance(document, Mapping) or not isinstance(document.get("Manifests"), list):
        return document
    return {**document, "Manifests": [_manifest(manifest) for manifest in document["Manifests"]]}


def _manifest(manifest: object) -> object:
    if not isinstance(manifest, Mapping) or not isinstance(manifest.get("Lifecycle"), Mapping):
        return manifest
    known = {name.lower(): name for name in (*PHASES, *CLASSIC_PHASES, "Setenv")}
    steps: dict[object, object] = {}
    for key, step in manifest["Lifecycle"].items():
        name = known.get(str(key).lower(), key)
        # One that is given twice, in two spellings, stays as it is: it is refused as unknown later.
        steps[key if name in steps else name] = step
    return {**manifest, "Lifecycle": steps}
