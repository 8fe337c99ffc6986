"""Clients without training: valid updates, the metrics of the curve, and the sizes of real files."""

from pathlib import Path
from typing import Any, Self

import pytest

from components.trainer.worker.worker_protocol import Result
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import checksum, decode, encode
from fedgrass.simulation.clients import curve_clients, open_clients
from fedgrass.simulation.clients.curve_clients import CurveClients
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.simulated_work import announced, devices, work_for


class OneTask:
    """Stands for the process that creates the task once."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def initial_model(self, _seed: int) -> Any:
        import numpy as np  # noqa: PLC0415 - of the fake alone

        return {"weight": np.zeros((1, 1000), np.float32)}

    def examples(self) -> int:
        return 60


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CurveClients:
    monkeypatch.setattr(curve_clients, "RealClients", OneTask)
    curve = tmp_path / "curve.csv"
    curve.write_text("round,accuracy\n0,0.1\n10,0.9\n")
    spec = SimulationSpec(training="curve", learning_curve=str(curve))
    return CurveClients(spec, devices(4), tmp_path)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "top_k"])
@pytest.mark.parametrize("carried", [{}, {"control": None}], ids=["plain", "scaffold"])
def test_an_update_is_a_valid_file_in_the_announced_encoding(
    clients: CurveClients, kind: Any, carried: dict[str, None]
) -> None:
    model = encode(clients.initial_model(0))
    upload = Encoding(kind=kind, difference=kind == "top_k", fraction=0.5)
    work = work_for(devices(1), announced(model, upload=upload, carried=carried))
    (done,) = (future.result() for future in clients.submit(work, lambda _: model))
    assert isinstance(done.result, Result)
    assert (done.result.bytes, done.result.checksum) == (len(done.update), checksum(done.update))
    assert decode(done.update)
    assert (done.result.examples, done.result.metrics) == (15, {"accuracy": 0.1})


def test_transfers_are_timed_by_the_size_of_the_tasks_model(clients: CurveClients) -> None:
    model = encode(clients.initial_model(0))
    plain = clients.timed_bytes(announced(model))
    small = clients.timed_bytes(announced(model, upload=Encoding(kind="int8")))
    assert 4000 < plain[0] < 4500
    assert plain[0] == plain[1]
    assert small[1] < plain[1] / 2


def test_a_model_has_the_metrics_of_its_row(clients: CurveClients) -> None:
    assert clients.evaluate({}, number=5, updates=3)["accuracy"] == pytest.approx(0.5)


def test_a_curve_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no learning_curve"):
        open_clients(SimulationSpec(training="curve"), devices(2), 1, tmp_path)
