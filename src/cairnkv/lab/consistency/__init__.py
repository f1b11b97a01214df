"""The consistency checker of `cairn check consistency`: concurrent clients use a store while parts of it fail.

    workload ─ runs the clients ────┐
    nemesis ─ injects faults ───────┴→ history → checks (linearizability among them) → verdict, timeline

Invariants: a reported violation is a violation for all possible outcomes of the unknown operations. A key that the
checker cannot decide is reported as undecided.

Out of scope: the files of a store (`cairnkv.storage.check`). A server does not import this package.
"""
