"""Tests of the Greengrass emulator, which are independent of fedgrass."""
