"""Unit tests of the Greengrass emulator."""
