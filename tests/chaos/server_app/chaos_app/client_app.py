"""A ClientApp that is never called: the campaign's devices answer by a task of their own."""

from flwr.clientapp import ClientApp

app = ClientApp()
