"""Record the AWS calls of the code, and compare the permissions that they need with template.yaml."""
