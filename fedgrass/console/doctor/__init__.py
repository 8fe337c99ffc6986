"""The command ``fedgrass doctor``: what is wrong with a deployed fleet, and what to do about it.

- diagnosis: carries out the command: runs all checks, and shows their findings
- health_report: findings, the report, and what the checks share
- account_checks: the operator's credentials, this machine's clock, the account's quotas
- stack_checks: the stack, its functions, topic rules and role alias
- data_checks: the bucket's rules, and the dead-letter queue
- alarm_checks: the alarms in CloudWatch
- device_checks: heartbeats, component versions, reported problems, certificates
"""
