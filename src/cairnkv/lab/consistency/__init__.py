"""Whether a store keeps what it promises when many use it and parts of it fail: `cairn check consistency`.

    workload ─ drives clients ──┐
    nemesis ─ kills and cuts ───┴→ history → checks (linearizability among them) → verdict, timeline

What always holds: a violation that is reported is one, whatever the outcomes left open may have been; what could not
be decided is said to be undecided.

Not for a store's files (`cairnkv.storage.check`). Nothing here is needed to serve.
"""
