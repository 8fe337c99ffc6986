"""One device is asked for the initial model of a Flower app whose ServerApp passes none."""

import io
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from flwr.compat.common import recorddict_compat as compat
from flwr.compat.common.typing import Code, GetParametersRes, Parameters, Status

from fedgrass.console.flower.device_parameters import ask_for_parameters
from fedgrass.console.flower.flower_api import from_records, to_parts
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from tests.fakes.flower_fleet import Content, FlowerFleet

SETTINGS = RunSettings(task="flower:mean", where="version > '1'", seen_within_seconds=77)


class AskedFleet(FlowerFleet):
    """A fleet whose devices answer as a ClientApp of Flower's former API does."""

    def __init__(self, *answers: Any, devices: int = 3) -> None:
        super().__init__(devices, self.answer)
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.started: list[tuple[str, RunSettings]] = []

    def start_server_app(self, name: str, settings: RunSettings) -> Run:
        self.started.append((name, settings))
        return self.fleet.run()

    def answer(self, device: str, header: MessageHeader, content: Content) -> Content | str | None:
        self.asked.append((device, header.type))
        compat.recorddict_to_getparametersins(from_records(*content))  # raises if Flower would not read it
        answer = self.answers.pop(0)
        return answer if isinstance(answer, str | None) else reply(*answer)

    def ask(self) -> dict[str, Any]:
        return ask_for_parameters(
            self, "cracks-1", SETTINGS, lambda _: None, 60.0, lambda *_: self.exchange(), self.clock
        )


def reply(arrays: list[np.ndarray[Any, Any]], code: Code = Code.OK, text: str = "") -> Content:
    parameters = Parameters([saved(array) for array in arrays], "numpy.ndarray")
    records = compat.getparametersres_to_recorddict(
        GetParametersRes(Status(code, text), parameters), keep_input=True
    )
    parts = to_parts(records)
    return [part.record for part in parts], [bytes(one) for part in parts for one in part.data]


def saved(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_the_model_of_one_device_is_in_the_apps_order_and_the_question_ends() -> None:
    fleet = AskedFleet(([np.full((2, 2), number, np.float32) for number in range(11)],))
    model = fleet.ask()
    assert list(model) == [str(number) for number in range(11)]
    assert [float(array[0, 0]) for array in model.values()] == list(range(11))
    assert fleet.asked == [("thing-0", "get_parameters")]
    name, settings = fleet.started[0]
    assert name.startswith("cracks-1-model-")
    assert settings.mode == "server_app"
    assert (settings.task, settings.where) == ("flower:mean", "version > '1'")
    assert settings.seen_within_seconds == 77
    assert fleet.fleet.run().state is RunState.SUCCEEDED


def test_the_next_device_is_asked_if_one_fails() -> None:
    fleet = AskedFleet("KeyError: 'x'", ([np.ones(3)],))
    assert list(fleet.ask()) == ["0"]
    assert [device for device, _ in fleet.asked] == ["thing-0", "thing-1"]


def test_an_app_without_parameters_is_reported_after_three_devices_with_what_to_give() -> None:
    missing: Any = ([], Code.GET_PARAMETERS_NOT_IMPLEMENTED, "Client does not implement `get_parameters`")
    fleet = AskedFleet(missing, ([],), "no train function", devices=5)
    with pytest.raises(SettingsError) as caught:
        fleet.ask()
    assert str(caught.value) == (
        "there is no initial model for flower:mean: thing-0: refused: Client does not implement"
        " `get_parameters`; thing-1: refused: its ClientApp has no get_parameters; thing-2: failed: no train"
        " function; give the model by --model FILE, or by --app APP_DIR the folder of the Flower app, whose"
        " ServerApp may pass it"
    )
    assert len(fleet.asked) == 3
    assert fleet.fleet.run().state is RunState.FAILED


def test_a_reply_that_is_no_array_is_refused() -> None:
    fleet = AskedFleet(*[([np.ones(1)],)] * 3)
    fleet.work = lambda *_: damaged()
    with pytest.raises(SettingsError, match="refused: array '0' is not a serialised numpy array"):
        fleet.ask()


def damaged() -> Content:
    records, data = reply([np.ones(1)])
    return records, [b"x" * len(one) for one in data]


def test_a_fleet_without_devices_is_reported() -> None:
    fleet = AskedFleet(devices=1)
    vars(fleet)["message_devices"] = lambda _: []
    with pytest.raises(
        SettingsError, match="no device with the task was seen within 77 s; give the model by"
    ):
        fleet.ask()


def test_an_interrupted_question_ends_its_run() -> None:
    fleet = AskedFleet(None)

    def interrupt(_: float) -> bool:
        raise KeyboardInterrupt

    vars(fleet)["pause"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        fleet.ask()
    assert fleet.fleet.run().state is RunState.FAILED
