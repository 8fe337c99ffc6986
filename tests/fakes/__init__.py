"""Stand-ins that keep the contracts of the ports: the suites in tests/contracts/ run over them too."""
