"""FLARE's FedAvg with the times of its rounds, and an executor with almost no training.

``overhead_task`` is the model and the training of flower_app, which flare_engine copies into the job.
"""

import json
import time
from pathlib import Path

from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.workflows.fedavg import FedAvg
from overhead_task import EXAMPLES, initial_model, train


class TimedFedAvg(FedAvg):
    """FedAvg with the time, in seconds since the epoch, at which it began each round, and its end."""

    def __init__(self, megabytes: float, times: str, **arguments: object) -> None:
        super().__init__(model=initial_model(megabytes), **arguments)
        self.file = Path(times)
        self.times: list[float] = []

    def run(self) -> None:
        """Run all rounds, then write the time."""
        super().run()
        self.stamp()

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """Write the time, then choose the sites of a round as FedAvg does."""
        self.stamp()
        return super().sample_clients(num_clients)

    def stamp(self) -> None:
        """Write the time; the file always has whole JSON."""
        self.times.append(time.time())
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(self.times), encoding="utf-8")
        draft.replace(self.file)


class AddConstant(Executor):
    """Adds a constant of the site to every value of the model."""

    def execute(
        self, _task_name: str, shareable: Shareable, fl_ctx: FLContext, _abort_signal: Signal
    ) -> Shareable:
        """Train the model once."""
        partition = int(fl_ctx.get_identity_name().rpartition("-")[2]) - 1  # of site-1, site-2 ...
        data = train(from_shareable(shareable).data, partition)
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: EXAMPLES}
        return DXO(data_kind=DataKind.WEIGHTS, data=data, meta=meta).to_shareable()
