"""The ports implemented on AWS. Only wiring.py builds them.

Read in this order:

- dynamodb_rounds: the table of runs, rounds and participants
- dynamodb_table: rows, conditional writes and their errors
- device_directory: the devices table, and thing groups
- s3: the bucket, and which of its errors concern a single object
- messaging: IoT Core, EventBridge Scheduler and SQS
- sqs_batch: a batch of messages, processed one by one
- powertools_log: log lines and metrics in CloudWatch's format
"""
