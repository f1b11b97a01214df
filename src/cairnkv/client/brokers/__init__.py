"""Brokers of task frameworks: Celery (`kombu`, `celery`), dramatiq and taskiq keep their tasks in queues of a store.

Invariants: the lease of a task is extended for as long as the process that has the task lives, so the task is not
delivered again meanwhile. A task is deleted from its queue when the framework acks it.

Out of scope: running tasks, and the frameworks themselves, which are extras of this package.
"""
