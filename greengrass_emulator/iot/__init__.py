"""The connection of a core to AWS IoT Core.

Read in this order: iot_connection (the port), iot_bridge (components' messages), paho_connection and
paho_thread (MQTT 5 over TLS), paho_poll, loopback_iot (no cloud).
"""
