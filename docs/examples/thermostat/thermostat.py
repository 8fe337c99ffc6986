"""A Greengrass component that switches a heater according to the temperatures that it receives."""

import os
import queue
import sys

from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

CALL_SECONDS = 10


def main() -> None:
    """Answer each temperature with the state of the heater; exit with an error if the nucleus disconnects."""
    received: queue.Queue[bytes | None] = queue.Queue()
    client = GreengrassCoreIPCClientV2()
    target = float(sys.argv[1])
    subscribed, _ = client.subscribe_to_iot_core_async(
        topic_name="home/temperature",
        qos="1",
        on_stream_event=lambda event: received.put(event.message.payload),
        on_stream_closed=lambda: received.put(None),
    )
    subscribed.result(CALL_SECONDS)

    def publish(state: str) -> None:
        print(f"heater {state}")
        sent = client.publish_to_iot_core_async(topic_name="home/heater", qos="1", payload=state.encode())
        sent.result(CALL_SECONDS)

    print(f"{os.environ['AWS_IOT_THING_NAME']} heats up to {target:g} degrees")
    publish("waiting")
    while (payload := received.get()) is not None:
        publish("on" if float(payload) < target else "off")
    sys.exit("the nucleus closed the connection")


if __name__ == "__main__":
    main()
