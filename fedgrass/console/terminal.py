"""Lines for the person at the terminal."""


def say(line: str) -> None:
    """Print a line as it is, however long."""
    print(line, flush=True)  # noqa: T201  # what the command is for
