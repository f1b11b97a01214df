"""Brokers of task frameworks: Celery (`kombu`, `celery`), dramatiq and taskiq keep their tasks in queues of a store.

Invariants: a broker extends the lease of a task while the process that has the task runs, so the store does not deliver
the task again meanwhile. The broker deletes a task from its queue when the framework acks it.

Out of scope: running tasks, and the frameworks themselves, which are extras of this package.
"""
