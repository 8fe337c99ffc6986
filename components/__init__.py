"""The Greengrass components: what runs on a device."""
