"""The program ``greengrass-emulator``: its help, and mistakes in its command line."""

import pytest

from greengrass_emulator.__main__ import main


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "lst",
            (
                "greengrass-emulator: unknown command 'lst': did you mean list?;"
                " see `greengrass-emulator --help`"
            ),
        ),
        (
            "publish a",
            "greengrass-emulator publish: PAYLOAD is required; see `greengrass-emulator publish --help`",
        ),
        (
            "inject broker-cut --amount -3",
            (
                "greengrass-emulator inject: --amount: '-3' is not a whole number from 0 to"
                " 1,000,000,000,000,000; see `greengrass-emulator inject --help`"
            ),
        ),
        (
            "run --recipie x",
            (
                "greengrass-emulator run: --recipe is required: did you mean it by '--recipie'?;"
                " see `greengrass-emulator run --help`"
            ),
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{expected}\n"


def test_the_help_is_plain_text_in_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    main(["inject", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: greengrass-emulator inject [OPTIONS] [ARGS]\n")
    assert "\n  --seconds NUMBER  how long (by default until it is cleared)\n" in shown
    assert shown.isascii()
    assert "\x1b" not in shown
