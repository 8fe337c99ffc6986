"""Deploy the fleet's stack to an AWS account, and components to its devices.

Stack: deploy_cloud, with deployment_checks, deploy_package (template and artifacts) and deploy_stack
(CloudFormation); teardown. Devices: component_publishing; deployment_options, device_actions (the command),
device_plan, device_deployment, component_configuration, task_options. Before deployment: costs.
"""
