"""A run of the real cloud functions in memory, as the tracking reads it."""

from typing import cast

from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.tracking.run_tracking import Models, Place, TrackReport, track_run
from fedgrass.console.tracking.tracking_sink import Sink
from tests.fakes.model_registry import ModelOperator
from tests.fakes.small_fleet import FLEET, RUN, SmallFleet

PLACE = Place(fleet=FLEET, stack="fedgrass", bucket="bucket")


class TrackedFleet(SmallFleet):
    """A small fleet whose run is tracked by given sinks."""

    def operator(self) -> Operator:
        """Return the operator of this fleet, which only reads."""
        return cast(Operator, ModelOperator(self))

    def train(self, rounds: int = 1) -> None:
        """Let all devices reply to the next rounds, a second after each was opened."""
        for _ in range(rounds):
            self.pass_time(1)
            opened = self.newest()
            for name in self.names:
                self.reply(name, opened)

    def track(self, *sinks: Sink, models: Models = "last", warnings: list[str] | None = None) -> TrackReport:
        """Bring sinks up to date once."""
        heard = [] if warnings is None else warnings
        return track_run(self.operator(), PLACE, RUN, sinks, models=models, warn=heard.append)
