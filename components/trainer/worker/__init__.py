"""The worker process, ``python3 -m components.trainer.worker``: the one part that loads tasks and numpy.

worker_protocol, worker_process and resource_limits are the main process's side. Read on in this order:
__main__, model_download, work_runner, local_metrics, update_writer, scaffold_client.
"""
