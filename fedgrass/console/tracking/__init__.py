"""Tracking: the figures, models and traces of runs in the tools that an operator has already.

tracked_run.py         what a sink receives: a run, its rounds, its models
tracking_sink.py       the interface of a sink, and how one is named on the command line
run_tracking.py        bring the sinks up to date with a run, once or until it has ended
json_lines.py          a file of JSON lines
mlflow_sink.py         MLflow: experiments and the model registry (extra ``mlflow``)
sagemaker_registry.py  SageMaker Model Registry
tensorboard_events.py  TensorBoard's event files (extra ``tensorboard``)
round_spans.py         the trace of a round, as spans of the cloud and of the devices
otlp_traces.py         OpenTelemetry: export of these traces by OTLP (extra ``otel``)
"""
