"""Traces: what their rows mean, and what is refused with file, row, column and value."""

import builtins
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets import FleetSpec, draw_fleet
from fedgrass.simulation.fleets.fleet_spec import ObservedDevice
from fedgrass.simulation.fleets.fleet_trace import read_trace


def csv(folder: Path, text: str) -> Path:
    path = folder / "fleet.csv"
    path.write_text(text)
    return path


def test_a_row_is_a_device_with_units_and_attributes(tmp_path: Path) -> None:
    text = (
        "name,seconds_per_example,download,latency,dropout,examples,attribute.region,attribute.gpu,attribute.gb\n"
        "press-1,0.01,8 Mbit/s,20 ms,5 %,60,eu,true,2\n"
        "press-2,0.02,unlimited,0,0,100,,,\n"
    )
    assert read_trace(csv(tmp_path, text)) == (
        ObservedDevice(
            name="press-1",
            seconds_per_example=0.01,
            download=1e6,
            latency=0.02,
            dropout=0.05,
            examples=60,
            attributes={"region": "eu", "gpu": True, "gb": 2.0},
        ),
        ObservedDevice(
            name="press-2",
            seconds_per_example=0.02,
            download=math.inf,
            latency=0,
            dropout=0,
            examples=100,
        ),
    )


def test_several_rows_are_the_times_of_a_device(tmp_path: Path) -> None:
    text = (
        "name,upload,on,off,period\n"
        "press-1,1e6,0,100,24 h\n"
        "press-1,,200,300.5,\n"
        "press-1,1e6,2 h,3 h,24 h\n"
        "press-2,1e6,,,\n"
        "press-3,1e6,0,0,\n"
    )
    one, two, three = read_trace(csv(tmp_path, text))
    assert (one.on, one.period) == (
        ((0, 100_000), (200_000, 300_500), (7_200_000, 10_800_000)),
        86_400_000,
    )
    assert (two.on, two.period) == ((), 0)
    assert not draw_fleet(FleetSpec(observed=(three,)), 0, 1)[0].is_on(0)


def test_what_a_trace_does_not_have_is_drawn_from_the_fleets_distributions(tmp_path: Path) -> None:
    spec = FleetSpec(trace=str(csv(tmp_path, "name\na\nb\n")), upload="uniform(10, 20)")
    assert all(10 <= device.upload <= 20 for device in draw_fleet(spec, 0, 1))


def test_gaps_are_refused_or_drawn_from_the_other_devices(tmp_path: Path) -> None:
    path = csv(tmp_path, "name,upload\na,100\nb,\nc,300\n")
    with pytest.raises(SettingsError, match=r'row 3, column upload, is \'\': .*gaps = "draw"'):
        read_trace(path)
    drawn = draw_fleet(FleetSpec(trace=str(path), gaps="draw"), 0, 1)
    assert drawn[1].upload in {100.0, 300.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: it takes a line with the names"),
        ("name\n", "has no devices"),
        ("upload\n3\n", "has no column name"),
        ("name,speed\na,1\n", "has the unknown column 'speed'"),
        ("name,donwload\na,1\n", "did you mean 'download'?"),
        ("name,attribute.\na,1\n", "has the unknown column 'attribute.'"),
        ("name,upload,upload\na,1,1\n", "has the column 'upload' twice"),
        ("name,on\na,1\n", "has the column on and no column off"),
        ("name,period\na,1\n", "has the column period and no column on"),
        ("name,upload\na\n", "row 2, has 1 cells, and row 1 names 2 columns"),
        ('name,upload\n"a,1\n', "is not CSV"),
        ("name,upload\n,1\n", "row 2, column name, is ''"),
        ("name\na/b\n", "row 2, column name, is 'a/b': a thing name"),
        ("name,upload\na,1\na,1\n", "row 3, column name, is 'a': the device has a row already"),
        ("name,upload\na,-5\n", "row 2, column upload, is '-5': it takes bytes per second"),
        ("name,upload\na,nan\n", "row 2, column upload, is 'nan'"),
        ("name,upload\na,fast\n", "row 2, column upload, is 'fast'"),
        ("name,latency\na,inf\n", "row 2, column latency, is 'inf'"),
        ('name,upload\na,"uniform(1, 2)"\n', "a trace has values, not distributions"),
        ("name,examples\na,1.5\n", "row 2, column examples, is '1.5'"),
        ("name,dropout\na,2\n", "row 2, column dropout, is '2'"),
        ("name,attribute.gb\na,nan\n", "row 2, column attribute.gb, is 'nan'"),
        ("name,attribute.a b\na,1\n", "row 2: attributes are"),
        ("name,on,off\na,5,5\n", "row 2, column off, is '5': a device is turned off after"),
        ("name,on,off\na,5,\n", "row 2, column off, is '': on and off are a pair"),
        ("name,on,off\na,0,9\na,9,10\n", "row 3, column on, is '9': the row before ends at 9"),
        ("name,on,off\na,5,9\na,1,2\n", "row 3, column on, is '1': the row before ends at 9"),
        ("name,on,off\na,5,9\nb,1,2\na,10,12\n", "row 4, column name, is 'a'"),
        (
            "name,on,off\na,,\na,10,12\n",
            "row 3, column on, is '10': the first row of the device has no times",
        ),
        ("name,on,off\na,5,9\na,,\n", "row 3, column on, is '': a further row"),
        ("name,on,off,period\na,5,9,8\n", "row 2, column off, is '9': it is after the end of the period"),
        ("name,on,off,period\na,5,9,20\na,10,12,30\n", "row 3, column period, is '30'"),
        ("name,on,off,upload\na,5,9,1\na,10,12,2\n", "row 3, column upload, is '2': the first row"),
        ("name,on,off,attribute.x\na,5,9,1\na,10,12,2\n", "row 3, column attribute.x, is '2'"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def parquet_of(folder: Path, **columns: list[Any]) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = folder / "fleet.parquet"
    parquet.write_table(arrow.table(columns), path)
    return path


def test_parquet_means_the_same_as_csv(tmp_path: Path) -> None:
    path = parquet_of(
        tmp_path,
        name=["a", "a", "b"],
        upload=[100.0, None, 200.0],
        on=[0, 20, None],
        off=[10, 30, None],
        **{"attribute.gpu": [True, None, False]},
    )
    text = "name,upload,on,off,attribute.gpu\na,100,0,10,true\na,,20,30,\nb,200,,,false\n"
    assert read_trace(path) == read_trace(csv(tmp_path, text))


def test_not_a_number_in_parquet_is_refused_even_where_gaps_are_drawn(tmp_path: Path) -> None:
    path = parquet_of(tmp_path, name=["a", "b"], upload=[math.nan, 1.0])
    with pytest.raises(SettingsError, match=r"row 1, column upload, is nan: that is not a number"):
        read_trace(path, gaps="draw")


@pytest.mark.parametrize("column", [[b"x"], [[1]], [{"a": 1}]])
def test_other_types_of_parquet_are_refused(tmp_path: Path, column: list[Any]) -> None:
    for name in ("upload", "attribute.x", "on"):
        other = {"off": [1]} if name == "on" else {}
        with pytest.raises(SettingsError, match=f"row 1, column {name}, is "):
            read_trace(parquet_of(tmp_path, name=["a"], **{name: column}, **other))


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 is not enough")
    with pytest.raises(SettingsError, match=r"broken.parquet is not a Parquet file"):
        read_trace(broken)
    with pytest.raises(SettingsError, match=r"missing.parquet cannot be read"):
        read_trace(tmp_path / "missing.parquet")
    with pytest.raises(SettingsError, match=r"the trace .*missing.csv cannot be read: No such file"):
        read_trace(tmp_path / "missing.csv")
    broken.rename(tmp_path / "binary.csv")
    (tmp_path / "binary.csv").write_bytes(b"name\n\xff\n")
    with pytest.raises(SettingsError, match=r"not UTF-8 text.*ends with .parquet"):
        read_trace(tmp_path / "binary.csv")


def test_without_pyarrow_parquet_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    path = parquet_of(tmp_path, name=["a"])
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"needs pyarrow: `pip install 'fedgrass\[traces\]'`"):
        read_trace(path)


@given(st.text(alphabet='name,uploadonff\n"015.- ', max_size=80))
def test_every_text_is_a_trace_or_refused_in_one_line(text: str) -> None:
    import tempfile  # noqa: PLC0415 - hypothesis wants no function-scoped fixture

    with tempfile.TemporaryDirectory() as folder:
        try:
            devices = read_trace(csv(Path(folder), f"name,upload,on,off\n{text}"))
        except SettingsError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either is right
            return
    assert devices
    assert draw_fleet(FleetSpec(observed=devices), 0, 1)
