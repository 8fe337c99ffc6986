"""The built predictor on a local core takes up the private arrays that a trainer next to it replaces."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedgrass.federation import weights
from fedgrass.federation.weights.array_sharing import Role
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.task_sharing import initial_model
from greengrass_emulator.core.profiles import CLASSIC
from tests.fakes.partial_task import Marked
from tests.integration.device.test_predictor_on_core import Site, site_on
from tests.unit.device.predictor.test_model_completion import head, keep

TASK = {"module": "served_partial_task:Served", "path": str(Path(__file__).parents[2] / "e2e")}


def predicts(site: Site) -> Any:
    return site.predict(1, task="marked")[1]["outputs"][0]


def test_replaced_private_arrays_are_served_and_ones_that_do_not_fit_are_not(
    tmp_path: Path, embedded_cloud: EmbeddedCloud
) -> None:
    with site_on(tmp_path, embedded_cloud, CLASSIC) as site:
        initial = initial_model(Marked(), 0)
        assert initial.roles.names(Role.FROZEN)
        site.deploy(tasks={"marked": TASK})
        site.hears_of_models("marked")
        trainer = site.root / "work" / "com.fedgrass.Trainer"
        keep(trainer, head(2), number=1)
        data = weights.encode({name: np.full_like(array, 7) for name, array in initial.shared.items()})
        model = msgspec.structs.replace(site.put(1, data, task="marked"), frozen_sha256=initial.frozen_sha256)
        site.announce(model)
        site.waits_for_event("serves run-a/1 (loss 1, private arrays of round 1)")
        assert predicts(site) == [7, 2, 1]

        keep(trainer, head(3), number=2)
        site.waits_for_event("serves run-a/1 with other private arrays (loss 1, before loss 1")
        assert predicts(site) == [7, 3, 1]

        keep(trainer, head(4, size=3), number=3)
        site.waits_for_event("keeps run-a/1: its new private arrays are not taken")
        assert predicts(site) == [7, 3, 1]
