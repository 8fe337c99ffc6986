"""The Greengrass emulator against the embedded cloud."""
