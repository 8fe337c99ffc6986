"""Deployments to one core.

Read in this order: deployment_records (what is asked for, and the outcome), core_deployments,
component_changes, component_dependencies, component_artifacts, component_updates.
"""
