"""How the trainer reaches AWS: the Greengrass nucleus, or MQTT with the device's own certificate."""
