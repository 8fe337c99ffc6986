"""The core device itself.

Read in this order: core_settings, profiles (how the two nuclei differ), nucleus, token_exchange_service,
core_folders, json_limits, standalone_core.
"""
