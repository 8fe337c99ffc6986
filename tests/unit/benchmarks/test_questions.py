"""``make bench``: every question in one list, each asked although another fails."""

from pathlib import Path

import pytest

from benchmarks.measuring.question_runner import Outcome, ask, summary
from benchmarks.measuring.questions import QUESTIONS, Question

ROOT = Path(__file__).parents[3]
LIMIT_MINUTES = 60.0


def test_the_list_has_every_benchmark() -> None:
    files = {file.stem for file in (ROOT / "benchmarks").glob("*.py") if "def main(" in file.read_text()}
    assert {question.name for question in QUESTIONS} == files - {"__main__"}


def test_all_questions_together_take_less_than_an_hour() -> None:
    assert sum(question.minutes for question in QUESTIONS) < LIMIT_MINUTES


def answer(folder: Path, script: str, limit: float = 60.0) -> Outcome:
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "fake.py").write_text(script)
    return ask(Question("fake", "?", 1.0), ["--quick"], folder, limit)


def test_the_output_of_a_benchmark_is_passed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = answer(tmp_path, "import sys\nprint(sys.argv[1:])\nprint('{\"a\": 1}')")
    assert outcome.failure == ""
    assert capfd.readouterr().out == "['--quick']\n{\"a\": 1}\n"


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("import sys\nsys.exit(3)", "exit code 3"),
        ("print('done')", "its last line is not a JSON object"),
        ("", "its last line is not a JSON object"),
    ],
)
def test_a_benchmark_that_fails_says_how(tmp_path: Path, script: str, failure: str) -> None:
    assert answer(tmp_path, script).failure == failure


@pytest.mark.slow
def test_a_benchmark_that_hangs_is_ended(tmp_path: Path) -> None:
    script = "import time\nprint('{}', flush=True)\ntime.sleep(600)"
    assert answer(tmp_path, script, limit=1.0).failure == "not done in 1 s"


def test_the_table_has_each_question_and_what_failed() -> None:
    table = summary([Outcome("averaging", 61.04, ""), Outcome("start", 5.0, "exit code 1")])
    assert table.splitlines() == [
        "question   seconds  result",
        "averaging     61.0  ok",
        "start          5.0  exit code 1",
        "1 of 2 answered in 1.1 minutes",
    ]
