"""What runs in Lambda: three thin handlers, the coordinator that they call, and the AWS adapters."""
