"""The trainer's connection on a device without Greengrass: MQTT with the device's own certificate."""
