"""query_histogram: A histogram over all devices by queries: federated analytics with Flower's message API."""
