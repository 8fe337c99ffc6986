"""Small Flower apps, written into a folder as ``flwr new`` lays them out, and the tasks that run them."""

from pathlib import Path
from textwrap import dedent
from typing import Any

from components.trainer.flower.flower_task import FlowerTask
from components.trainer.tasks.task import Fit, Task
from fedgrass.federation.weights import Arrays
from tests.unit.device.flower.small_pyproject import PYPROJECT

MESSAGE_APP = """
    import numpy as np
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()
"""
# The model moves towards the value of the device's partition.
MEAN_APP = (
    MESSAGE_APP
    + """
    @app.train()
    def train(msg: Message, context: Context):
        rate = context.run_config["learning-rate"]
        target = context.node_config["partition-id"]
        arrays = [(1 - rate) * a + rate * target for a in msg.content["arrays"].to_numpy_ndarrays()]
        after = dict(zip(msg.content["arrays"].keys(), arrays))
        from flwr.app import Array
        record = ArrayRecord({name: Array(np.asarray(a, np.float32)) for name, a in after.items()})
        metrics = MetricRecord({"num-examples": 10, "train_loss": 0.25, "history": [1.0, 2.0]})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        loss = float(sum(np.abs(a).sum() for a in msg.content["arrays"].to_numpy_ndarrays()))
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 4, "loss": loss})}), reply_to=msg)
"""
)
LEGACY_APP = """
    import numpy as np
    from flwr.client import NumPyClient
    from flwr.clientapp import ClientApp

    class Client(NumPyClient):
        def __init__(self, context):
            self.context = context

        def get_parameters(self, config):
            return [np.zeros((2, 3), np.float32)] + [np.full(1, i, np.float32) for i in range(1, 12)]

        def fit(self, parameters, config):
            return [p + 1 for p in parameters], 7, {"train_loss": 0.5, "note": "a text"}

        def evaluate(self, parameters, config):
            return float(parameters[0].sum()), 3, {"accuracy": 0.75}

    def client_fn(context):
        return Client(context).to_client()

    app = ClientApp(client_fn)
"""

# The module that `fedgrass flower add` generates.
GENERATED = """
from pathlib import Path

from components.trainer.flower.flower_task import FlowerTask


class App(FlowerTask):
    folder = Path(__file__).parent
"""


def train(task: Task, model: Arrays, **settings: bool | float | str) -> Fit:
    """Return what a task reaches from a model."""
    return task.fit(model, settings, lambda _: None, lambda: False)


def write_app(folder: Path, client_app: str, pyproject: str = PYPROJECT, **files: str) -> Path:
    """Write an app whose package is ``small``; return its folder."""
    package = folder / "small"
    package.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(pyproject)
    for name, code in {"__init__": "", "client_app": client_app, **files}.items():
        (package / f"{name}.py").write_text(dedent(code))
    return folder


def app_task(app: Path, **options: Any) -> FlowerTask:
    """Return the task of the app in a folder."""

    class App(FlowerTask):
        folder = app

    return App(**options)


def task_of(folder: Path, client_app: str, **options: Any) -> FlowerTask:
    """Write an app with this client_app.py and return its task; it is the device's partition 2."""
    return app_task(write_app(folder, client_app), **{"node-partition-id": 2, **options})


def release(app: Path) -> dict[str, str]:
    """Make a release of the app in a folder; return the options with which the trainer loads it."""
    (app / "fedgrass_flower_app.py").write_text(GENERATED)
    return {"module": "fedgrass_flower_app:App", "path": str(app)}
