"""Flower apps: their files, their component, and their ServerApp.

- app_archive: the files of an app and the command line of its run, as one zip
- server_app_task: the ECS task in which a ServerApp runs on AWS Fargate
- detached_run: the command that starts such a task, and the command of its container
"""
