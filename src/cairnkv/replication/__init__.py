"""The replicated mode: a log in NATS JetStream, which a majority of servers stores before a reply leaves.

`entries` is the format of log entries, `epochs` decides which entries count, `proposer` publishes this node's entries;
these three do no I/O. `store` executes the log, and `node` joins the cluster. Only `nats/` knows NATS, and it imports
nats-py when a node connects.
"""
