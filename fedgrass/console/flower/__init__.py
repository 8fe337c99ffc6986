"""Flower apps: their files, their component, and their ServerApp.

- flower_project: the pyproject.toml of an app: its name, components, configuration and requirements
- flower_files: the files of an app, by Flower's own rules
- flower_component: the component that brings an app to devices
- flower_server: what imports flwr here: the ServerApp, and the initial model that it passes
"""
