"""Deploy the fleet's stack to an AWS account, and components to its devices.

Stack: cloud_actions (the commands), deploy_cloud, deploy_package (template and artifacts), deploy_stack
(CloudFormation), teardown. Devices: device_actions (the commands), device_plan, device_deployment,
component_configuration, component_publishing. Before deployment: costs.
"""
