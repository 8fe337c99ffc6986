"""Find words that a reader of technical English stumbles over: `make prose`, run by `make check`.

Reads the docstrings, comments and messages of every Python module, the comments of YAML files, and every
page. Prints each finding with what to write instead, then the number of findings per 1,000 words for each
part of the tree. Fails above LIMIT.

    python .ci/prose.py [--summary] [PATH ...]

A line that needs such a word ends with the comment ``# prose: ok`` (in a page: ``<!-- prose: ok -->``).
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FEWEST_WORDS = 3  # of a string that is taken for a message
LIMIT = 1.0  # findings per 1,000 words, in each part
PARTS = ("components", "cloud_functions", "greengrass_emulator", "fedgrass", "tests", "benchmarks", "docs")

# A pattern, and what to write instead. The list is short on purpose: add what reviewers stumble over.
WORDS = {
    r"whoever|whomever": "anyone who, the caller, the operator",
    r"whosever": "whose",
    r"anew": "again",
    r"for ever": "indefinitely",
    r"one's own": "custom, its own",
    r"of (?:its|their|his|your|our|my) own": "its own X, a separate X, a dedicated X",
    r"besides?(?! \w+ing)": "next to, in addition to, along with",
    r"(?<!there )(?:is|are|was|were) no (?!longer|more|less|fewer|later|larger|smaller|older)\w+": "is not a",
    r"(?:so|as) (?:many|much) (?!as)": "that many, this number of",
    r"as long as it lasts": "while it lasts",
    r"(?:lies|lie|lay|lying) (?:in|at|on|below|under|there|beside)": "is in, is stored in",
    r"(?:says|said|say|saying)": "publishes, reports, states, returns",
    r"(?:tells|told|tell|telling)(?! apart)": "reports to, notifies, shows",
    r"(?:hears|heard|hear|hearing)": "receives",
    r"(?:somebody|nobody|everybody|anybody)": "someone, no device, every device, any client",
    r"(?:meanwhile)": "in the meantime, since then",
    r"but for": "except for",
    r"(?:goes|go|went|going|gone) on": "continues",
    r"put together": "combined, assembled",
    r"comes? to nothing": "fails",
    r"(?:thereby|thereof|therein|thereafter|whereof|hitherto|henceforth|whilst|amongst)": "by this, in it",
    r"(?:heeds?|heeded|heeding)": "respects, obeys",
    r"(?:hinders?|hindered|hindering)": "prevents, blocks",
    r"(?:likewise)": "also, the same way",
    r"as ever": "as usual, as before",
    r"like any other": "like all others",
    r"in vain": "without success",
    r"(?:at|by|of) will": "freely, at any time",
    r"what (?:it|they) (?:is|are) worth": "its value",
    r"(?:in|of) hand": "in progress",
    r"(?:stands|stand|stood|standing) (?:there|here|still|open|idle)": "is, remains, waits",
    r"(?:has|have|had) its (?:word|words|turn)": "is published, is next",
    r"(?:is|are|was|were) to be had": "is available",
    r"(?:a|the) while ago": "earlier",
    r"(?:knows|know|knew) of (?:no|nothing)": "has no",
    r"(?:nothing|none) of (?:fedgrass|it|them|that)": "no part of, none",
    r"(?:the like|and the like|such like)": "similar",
    r"(?:from of old|of old|the latter's|the former's)": "",
    r"(?:deal|deals|dealt|dealing) (?:once )?with": "handle, process",
    r"without (?:a|any) word": "silently",
    r"(?:the )?dearest": "most expensive",
    r"(?:to|for) (?:it|them) (?:alone|all)": "only",
    r"(?:it )?(?:befalls|befell|betimes|forthwith|lest|nought|aught|ere|yonder|alike unto)": "",
}
PATTERN = re.compile(
    "|".join(rf"(?P<w{number}>\b(?:{words})\b)" for number, words in enumerate(WORDS)), re.IGNORECASE
)
INSTEAD = list(WORDS.values())
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_CODE = re.compile(r"``[^`]*``|`[^`]*`|^ {4,}\$ .*$|https?://\S+", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def passages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of all prose in a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _strings(ast.parse(text), messages="tests" not in path.parts)
        yield from _comments(text)
    elif path.suffix == ".yaml":
        for number, line in enumerate(text.splitlines(), 1):
            if line.lstrip().startswith(("#", "Description:", "AlarmDescription:")):
                yield number, line
    else:
        yield 1, _FENCE.sub(lambda found: "\n" * found.group().count("\n"), text)


def _strings(tree: ast.Module, *, messages: bool) -> Iterator[tuple[int, str]]:
    """Yield docstrings and, if asked, the other strings that have several words."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_message = messages and len(node.value.split()) >= _FEWEST_WORDS
            if node in docstrings or is_message:
                yield node.lineno, node.value


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:")):
            yield token.start[0], token.string


def findings(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line, words found, what to write instead) for a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for first, text in passages(path):
        prose = _CODE.sub(lambda found: "\n" * found.group().count("\n"), text)
        for found in PATTERN.finditer(prose):
            line = first + prose.count("\n", 0, found.start())
            if "prose: ok" not in lines[line - 1]:
                yield line, found.group(), INSTEAD[int(str(found.lastgroup)[1:])]


def count_words(path: Path) -> int:
    """Return the number of words of prose in a file."""
    return sum(len(_WORD.findall(_CODE.sub("", text))) for _, text in passages(path))


def part_of(path: Path) -> str:
    """Return the part of the tree that a file belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return first if first in PARTS else "pages"


def main() -> int:
    """Print the findings; return 1 if a part has more than LIMIT per 1,000 words."""
    options = argparse.ArgumentParser(description="Find words that a reader stumbles over.")
    options.add_argument("--summary", action="store_true", help="only the numbers")
    options.add_argument("paths", nargs="*", help="files or folders; the whole tree without any")
    asked = options.parse_args()
    listed = subprocess.run(  # noqa: S603 - git, with the paths of this command line
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *asked.paths],  # noqa: S607 - git is on the path
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    files = [
        ROOT / name for name in listed if name.endswith((".py", ".md", ".yaml")) and "CHANGELOG" not in name
    ]
    found: dict[str, int] = {}
    words: dict[str, int] = {}
    for path in files:
        if not path.exists() or path == Path(__file__).resolve():
            continue
        part = part_of(path)
        words[part] = words.get(part, 0) + count_words(path)
        for line, what, instead in findings(path):
            found[part] = found.get(part, 0) + 1
            if not asked.summary:
                hint = f" -> {instead}" if instead else ""
                sys.stdout.write(f"{path.relative_to(ROOT)}:{line}: {' '.join(what.split())}{hint}\n")
    rates = {part: 1000 * found.get(part, 0) / max(words[part], 1) for part in sorted(words)}
    for part, rate in rates.items():
        sys.stdout.write(f"{part:20} {rate:6.2f} per 1,000 words ({found.get(part, 0)} in {words[part]:,})\n")
    total = 1000 * sum(found.values()) / max(sum(words.values()), 1)
    sys.stdout.write(f"{'all':20} {total:6.2f} per 1,000 words\n")
    return int(any(rate > LIMIT for rate in rates.values()))


if __name__ == "__main__":
    sys.exit(main())
