"""The cloud's ports in memory, and time that jumps: for simulations, benchmarks and tests.

The methods are documented at the protocols in fedgrass/federation/ports.py. The contract suites in
tests/contracts/ run over these classes and over the adapters of AWS.

- memory_bucket: the bucket
- memory_ports: the devices, the thing groups, the publisher, the alarms
- memory_rounds: the table of runs, rounds and participants
- memory_tables: pages of DynamoDB's tables, for the dashboard
- virtual_clock: the clock, and what is due later
"""
