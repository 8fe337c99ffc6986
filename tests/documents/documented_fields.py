"""The fields of a settings struct as the pages document them."""

import msgspec
from msgspec import NODEFAULT, Struct

from fedgrass.federation.conversion import words


def field_words(kind: type[Struct]) -> dict[str, tuple[str, object]]:
    """Return the description and the default of each field; ``NODEFAULT`` for a required one."""
    return {
        field.name: (
            words(field.type),
            field.default if field.default_factory is NODEFAULT else field.default_factory(),
        )
        for field in msgspec.structs.fields(kind)
    }
