"""A cluster on this machine: NATS servers and nodes as child processes, for trying out, tests and checks.

`nats` is one NATS server. Not for machines in service, where systemd or containers keep processes (docs/cluster.md).
"""
