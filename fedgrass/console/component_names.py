"""The components of fedgrass, by the short names that people type."""

from fedgrass.federation.errors import SettingsError

FULL_NAMES = {
    "trainer": "com.fedgrass.Trainer",
    "trainer-lite": "com.fedgrass.TrainerLite",  # without Stream Manager, and so without Java
    "predictor": "com.fedgrass.Predictor",
}
TRAINERS = (FULL_NAMES["trainer"], FULL_NAMES["trainer-lite"])


def full_name(given: str) -> str:
    """Return the full name of a component that is given by its short or its full name.

    Raises:
        SettingsError: the name has no dot, as every full name has, and is none of fedgrass's short names.
    """
    if given in FULL_NAMES:
        return FULL_NAMES[given]
    if "." not in given:
        # Imported here: reading a command line needs no msgspec.
        from fedgrass.federation.conversion import nearest  # noqa: PLC0415

        message = f"{given!r} is no component: {nearest(given, FULL_NAMES)} Others go by their full names"
        raise SettingsError(message)
    return given
