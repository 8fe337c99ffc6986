"""The predictor component: serves the latest global model of each task to other programs of the device.

predictor_main wires the parts together. Models take the path model_rollout, model_store, model_completion,
model_acceptance, serving; requests the path web or local_requests, serving. predictor_subscriptions and
predictor_nucleus connect the component to the Greengrass nucleus, predictor_configuration validates its
configuration and applies changes.
"""
