"""The log of the quorum size: a stream of NATS JetStream, replicated to a majority of machines.

`entries` says what stands in it, `epochs` which entries count, `proposer` how a node has its own ones logged;
these three do no I/O. `stream` is the way to NATS, and `snapshots` what stands for the beginning of a stream that is no
longer kept. `nats-py` is imported where a stream is opened.
"""
