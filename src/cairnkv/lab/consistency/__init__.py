"""The checkers of `cairn check consistency` and `cairn check queue`: clients use a store while parts of it fail.

    run ───── runs the clients ────┐
    nemesis ─ injects faults ──────┴→ history → checks → verdict

`keys` and `queues` have the operations and the checks of each.

Invariants: a reported violation is a violation for all possible outcomes of the unknown operations.

Out of scope: the files of a store (`cairnkv.storage.check`). A server does not import this package.
"""
