"""How an update gets to S3: through Stream Manager, or by a process per upload."""
