"""The pyproject.toml of a small Flower app."""

PYPROJECT = """
[project]
name = "small"
version = "1.0.0"
dependencies = ["flwr[simulation]>=1.40.0"]

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "small.server_app:app"
clientapp = "small.client_app:app"

[tool.flwr.app.config]
num-server-rounds = 3
learning-rate = 0.5
optimizer.name = "sgd"
"""
