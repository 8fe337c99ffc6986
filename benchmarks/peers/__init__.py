"""The systems that fedgrass is compared with, each in its own environment, and fedgrass in the same form.

- flare_engine: NVIDIA FLARE's proof-of-concept mode: a server and sites, which run flare_app
- flare_submit: submits a job, in FLARE's environment
- fleet_engine: fedgrass: the embedded cloud and Greengrass cores
- flower_averaging: Flower's averaging of the same updates, in Flower's environment
- flower_clients: the client app of flower_simulation
- flower_engine: Flower's deployment engine: a SuperLink and SuperNodes, which run flower_app
- flower_simulation: Flower's simulation engine, in Flower's environment
- mnist_clients: clients of MNIST in plain PyTorch, and a plain loop over them
- peer_environments: where a peer is installed, and which version
- peer_processes: starts the processes of a peer
- round_times: the times that a peer's server writes
"""
