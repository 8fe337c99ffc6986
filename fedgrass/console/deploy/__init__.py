"""Deployment: the fleet's stack into an AWS account, components onto its devices.

The stack: deploy_package (what it is deployed from), deploy_stack (CloudFormation), deploy_cloud,
teardown. Devices: component_publishing, component_configuration, device_deployment, device_plan. Before
any of it: costs.
"""
