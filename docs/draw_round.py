"""Draw the diagram of docs/round.md from the table of a round's transitions.

python docs/draw_round.py
"""

import re
from pathlib import Path

from fedgrass.federation.rounds import TRANSITIONS, State

PAGE = Path(__file__).with_name("round.md")


def diagram() -> str:
    """Return the round's states and events as a Mermaid state diagram."""
    lines = [f"    [*] --> {State.OPEN}: the cohort is asked"]
    lines += [f"    {source} --> {target}: {event}" for (source, event), target in TRANSITIONS.items()]
    ends = set(State) - {source for source, _ in TRANSITIONS}
    lines += [f"    {end} --> [*]" for end in sorted(ends)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def drawn(page: str) -> str:
    """Return the page with its diagram replaced by the current one."""
    between = re.compile(r"(?<=<!-- diagram -->\n).*?(?=<!-- /diagram -->)", re.DOTALL)
    return between.sub(lambda _: diagram() + "\n", page)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
