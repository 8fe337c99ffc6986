"""Ages and durations for people, in their largest unit."""

_SECONDS_OF = (("d", 86_400), ("h", 3_600), ("min", 60))


def ago(seconds: float) -> str:
    """Return an age in its largest unit, such as ``3 h ago``; negative ages (clock skew) count as 0."""
    return f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as ``3 h``."""
    whole = max(0, round(seconds))
    for unit, size in _SECONDS_OF:
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
