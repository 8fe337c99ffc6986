"""The ports on AWS. Only wiring builds them.

Read in this order:

- dynamodb_rounds: the table of runs, rounds and participants
- dynamodb_table: rows, conditional writes and their errors
- device_directory: the devices table, and thing groups
- s3: the bucket, and which of its errors concern one object
- messaging: IoT Core's publish, EventBridge Scheduler, SQS
- sqs_batch: a batch of messages taken one by one
- powertools_log: log lines and metrics in CloudWatch's format
"""
