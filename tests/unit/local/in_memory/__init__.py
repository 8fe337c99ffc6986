"""The ports in memory, beyond the contracts that they share with AWS."""
