"""Only a device's own connections may publish on its topics: ``press-10`` must not pass for ``press-1``."""

import pytest

from fedgrass.federation.topics import Kind
from tests.fakes.small_fleet import SmallFleet, update_full_of

DEVICE = "thing-1"


@pytest.mark.parametrize("client", ["thing-10", "thing-1-2", "thing-", "thing", "a-thing-1", "#2", ""])
def test_a_client_id_that_only_resembles_the_things_name_is_refused(client: str) -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    round_ = fleet.newest()
    payload = fleet.completion(round_, fleet.upload(DEVICE, round_, update_full_of(1.0)), DEVICE)
    fleet.say(DEVICE, Kind.COMPLETE, payload, client=client)
    assert fleet.newest().replied == 0
    fleet.say(DEVICE, Kind.COMPLETE, payload, client=f"{DEVICE}#2")
    assert fleet.newest().replied == 1
