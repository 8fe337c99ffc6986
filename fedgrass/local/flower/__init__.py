"""Flower apps on this machine: tried, published as components, and in the demo.

- flower_publishing: ``fedgrass flower add``
- flower_check: ``fedgrass flower check``, in two child processes
- flower_examination: what the second one calls and measures
- flower_initial_model: ``fedgrass flower initial-model`` and the model of ``fedgrass run start --app``
- flower_demo: an app in ``fedgrass demo``
- server_app_demo: its ServerApp there, with ``--server-app``
"""
