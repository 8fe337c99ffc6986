"""The worker process, ``python3 -m components.trainer.worker``: the only one that loads tasks and PyTorch.

The main process uses worker_protocol (the messages), worker_process (starts and stops the child) and
resource_limits. Within the worker, read in this order: __main__, model_download, work_runner,
prepared_training, work_failure, failure_log, model_parts, local_metrics, update_writer, scaffold_client,
statistics_work, content_download, message_work.
"""
