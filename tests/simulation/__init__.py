"""A simulation of many clients on one server, each with a model of its own.

    python -m tests.simulation --seconds 60 --seed 7 --mode all

A plan draws steps from a seed: open connections, send commands, stop reading, pause the server, reset. The driver
carries the steps out on real sockets and compares every byte of every reply with what the models expect. At the end of
each episode it compares the whole table with the models. Every value holds its owner and a number, so the comparison
shows each reply, each execution and each order that crosses clients.

Invariants: a plan depends on its seed alone and never on replies, so a seed repeats it, and a part of a plan is a plan.
"""
