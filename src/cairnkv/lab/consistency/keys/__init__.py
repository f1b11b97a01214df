"""The check of keys: each key must be linearizable.

    workload ─ runs the clients ─→ history → checks (linearizability among them) → verdict, timeline

Invariants: a key that the checks cannot decide is reported as undecided.
"""
