"""What runs on a laptop: the embedded cloud, the local Greengrass cores, and the demo over both."""
