"""Provision core devices: create their things, certificates and policies, and write the files they need.

Read in this order: fleet_provisioning, thing_registry (AWS IoT), core_installation (policy and files).
"""
