"""Flower apps: their files, their component, and their ServerApp.

- flower_project: the pyproject.toml of an app: its name, components, configuration and requirements
- flower_files: the files of an app, by Flower's own rules
- flower_component: the component that brings an app to devices
- flower_server: what imports flwr here: the ServerApp, and the initial model that it passes
- app_archive: the files of an app and the command line of its run, as one zip
- server_app_task: the ECS task in which a ServerApp runs on AWS Fargate
- detached_run: the command that starts such a task, and the command of its container
"""
