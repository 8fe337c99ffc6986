"""The training of virtual devices: for real in worker processes, or by a given learning curve.

    client_trainer     the interface, and what goes in and out
    open_clients       which of the two implementations a simulation has
    real_clients       cuts announcements into jobs for the workers, and collects their updates
    job_calls          the calls to the worker processes
    worker_pool        the worker processes, and what happens when one dies
    client_worker      what a worker process does: the work of several devices, one by one or together
    virtual_tasks      the tasks of the devices in a worker, each created on first use
    client_state       what a device keeps across rounds
    joint_training     trains the clients of one shape together
    joint_layers       pooling and convolution of several models at a time, quicker than PyTorch's
    joint_limits       which tasks and clients can be trained together
    curve_clients      the implementation without training
    learning_curve     the file of a learning curve

torch is imported in the worker processes only: client_worker and what it imports.
"""

from fedgrass.simulation.clients.open_clients import open_clients

__all__ = ["open_clients"]
