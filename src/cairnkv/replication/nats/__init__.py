"""The replicated log in NATS JetStream. No other package knows NATS, except for test clusters (`lab`)."""
