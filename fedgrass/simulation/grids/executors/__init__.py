"""Where the simulations of a grid run: one port with the semantics of ``concurrent.futures``.

``batch_executor`` runs them as array jobs of AWS Batch, whose requests ``batch_jobs`` makes;
``cell_executor`` is the port; ``process_executor`` runs them in processes of this machine, ``ray_executor``
on a Ray cluster.
"""
