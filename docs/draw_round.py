"""Draw the diagrams of docs/round.md and docs/buffered_rounds.md from the tables of transitions.

python docs/draw_round.py
"""

import re
from pathlib import Path

from fedgrass.federation.rounds import PARTICIPATIONS, TRANSITIONS, Participation, State

PAGE = Path(__file__).with_name("round.md")
BUFFERS = Path(__file__).with_name("buffered_rounds.md")


def diagram() -> str:
    """Return the round's states and events as a Mermaid state diagram."""
    lines = [f"    [*] --> {State.OPEN}: the cohort is asked"]
    lines += [f"    {source} --> {target}: {event}" for (source, event), target in TRANSITIONS.items()]
    ends = set(State) - {source for source, _ in TRANSITIONS}
    lines += [f"    {end} --> [*]" for end in sorted(ends)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def devices() -> str:
    """Return the states of a device in a buffered run as a Mermaid state diagram."""
    lines = [f"    [*] --> {Participation.ASKED}: a place in flight is vacant"]
    lines += [
        f"    {source} --> {target}"
        for source, targets in PARTICIPATIONS.items()
        for target in Participation
        if target in targets
    ]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def drawn_buffers(page: str) -> str:
    """Return the page on buffered rounds with its diagram replaced by the current one."""
    between = re.compile(r"(?<=<!-- diagram -->\n).*?(?=<!-- /diagram -->)", re.DOTALL)
    return between.sub(lambda _: devices() + "\n", page)


def drawn(page: str) -> str:
    """Return the page with its diagram replaced by the current one."""
    between = re.compile(r"(?<=<!-- diagram -->\n).*?(?=<!-- /diagram -->)", re.DOTALL)
    return between.sub(lambda _: diagram() + "\n", page)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
    BUFFERS.write_text(drawn_buffers(BUFFERS.read_text()))
