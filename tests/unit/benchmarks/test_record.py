"""The record of what was measured: one entry per question, with all that belongs to a figure."""

import json
from pathlib import Path

import pytest

from benchmarks.measuring import benchmark_options, machine_facts, record
from benchmarks.measuring.record import RecordFault
from fedgrass.federation.errors import FedgrassError


def test_an_entry_has_the_figures_and_all_that_belongs_to_them(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    record.write(
        "averaging",
        {"seconds": 1.5},
        command="python -m benchmarks.averaging",
        seeds=[1, 2],
        peers={"flower": "1.42.0", "flare": None},
        load=0.25,
        file=file,
    )
    entry = record.read(file)["averaging"]
    assert entry["figures"] == {"seconds": 1.5}
    assert entry["command"] == "python -m benchmarks.averaging"
    assert entry["seeds"] == [1, 2]
    assert entry["peers"] == {"flower": "1.42.0", "flare": None}
    assert entry["load"] == 0.25
    assert entry["versions"].keys() == {"fedgrass", "torch", "numpy"}
    assert entry["machine"].keys() == {"processor", "cores", "memory_gib", "system", "python"}
    assert len(entry["date"]) == len("2026-11-30")


def test_an_entry_replaces_the_one_of_its_question_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    for question, figure in (("start", 1), ("averaging", 2), ("start", 3)):
        record.write(question, {"figure": figure}, command="", file=file)
    assert {name: entry["figures"]["figure"] for name, entry in record.read(file).items()} == {
        "averaging": 2,
        "start": 3,
    }
    assert list(json.loads(file.read_text())) == ["averaging", "start"]


@pytest.mark.parametrize("text", ["{", "[]", '{"start": 3}'])
def test_a_damaged_record_is_refused_with_the_way_out_and_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(RecordFault, match=r"record\.json .*restore it with git or remove it"):
        record.write("start", {}, command="", file=file)
    assert file.read_text() == text


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordFault, match=r"record\.json cannot be written"):
        record.write("start", {}, command="", file=tmp_path / "missing" / "record.json")


def test_the_command_repeats_the_measurement_without_recording_it() -> None:
    words = ["--record", "--quick", "--data", "my data"]
    assert record.command_of("start", words) == "python -m benchmarks.start --quick --data 'my data'"


def test_the_last_line_of_a_benchmark_is_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    options = benchmark_options.benchmark_parser("What?", "less").parse_args(["--quick"])
    benchmark_options.finish("start", options, {"seconds": 1})
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"seconds": 1}


def test_recorded_figures_come_with_the_load_before_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.0, 0.0))
    options = benchmark_options.benchmark_parser("What?", "less").parse_args(["--record"])
    monkeypatch.setattr("os.getloadavg", lambda: (2.0, 0.0, 0.0))
    monkeypatch.setattr(
        record.write, "__kwdefaults__", {**(record.write.__kwdefaults__ or {}), "file": tmp_path / "r"}
    )
    benchmark_options.finish("start", options, {}, seeds=[7])
    entry = record.read(tmp_path / "r")["start"]
    assert entry["load"] == 0.5
    assert entry["seeds"] == [7]


@pytest.mark.parametrize(("error", "code"), [(RecordFault("full"), 2), (FedgrassError("failed"), 1)])
def test_an_error_is_one_line_and_an_exit_code(
    error: FedgrassError, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        benchmark_options.run_benchmark("start", main)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"start: {error}\n"


def test_the_processor_is_named_as_the_kernel_names_it() -> None:
    found = machine_facts.machine("processor : 0\nmodel name\t: Xeon @ 2.80GHz\nmodel name\t: other\n")
    assert found["processor"] == "Xeon @ 2.80GHz"
    assert machine_facts.machine("CPU implementer : 0x41\n")["processor"]


def test_a_package_that_is_missing_has_no_version() -> None:
    found = machine_facts.versions("numpy", "no-such-package")
    assert found["no-such-package"] is None
    assert found["numpy"]
