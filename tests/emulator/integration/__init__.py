"""Components on an emulated core: processes, deployments, faults."""
