"""Flower apps: their files, their component, and their ServerApp.

- flower_project: the pyproject.toml of an app: its name, components, configuration and requirements
- flower_files: the files of an app, by Flower's own rules
- flower_component: the component that brings an app to devices
- flower_api: what is used of Flower; the only module that imports flwr
- flower_server: how the ServerApp is imported, and the initial model that it passes
- device_parameters: the initial model from a device, where the ServerApp passes none
"""
