"""Deployments to one core.

Read in this order: deployment_records (requests and outcomes), core_deployments,
component_changes, component_dependencies, component_artifacts, component_updates.
"""
