"""Flower apps: their files, their component, and their ServerApp.

- flower_project: the pyproject.toml of an app: its name, components, configuration and requirements
- flower_files: the files of an app, by Flower's own rules
- flower_component: the component that brings an app to devices
- flower_server: the components of an app, imported, and the initial model that its ServerApp passes
- flower_api: what is used of Flower; the only module here that imports flwr
- fleet_grid: Flower's Grid over the devices of a fleet
- server_app_run: ``fedgrass flower run`` and ``resume``
- strategy_checkpoint: keeps the state of a strategy after each round, and continues from it
- checkpoint_file: the file of that state
- device_parameters: the initial model from a device, where the ServerApp passes none
- app_archive: the files of an app and the command line of its run, as one zip
- server_app_task: the ECS task in which a ServerApp runs on AWS Fargate
- detached_run: the command that starts such a task, and the command of its container
"""
