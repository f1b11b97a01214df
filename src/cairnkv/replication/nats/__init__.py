"""The replicated log in NATS JetStream. No other package knows NATS; `nats-py` is imported when a node connects."""
