"""Tests of the Greengrass emulator, which need nothing of fedgrass."""
