"""What runs on a laptop: the embedded cloud, the local Greengrass cores, and the demo over both."""

from fedgrass.sources import add_to_path

add_to_path()
