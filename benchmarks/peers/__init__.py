"""The systems that fedgrass is compared with, each in its own environment, and fedgrass in the same form.

- fleet_engine: fedgrass: the embedded cloud and Greengrass cores
- flower_engine: Flower's deployment engine: a SuperLink and SuperNodes, which run flower_app
- peer_environments: where a peer is installed, and which version
"""
