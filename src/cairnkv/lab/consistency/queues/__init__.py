"""The check of queues: ten promises about messages, leases, groups and counts.

workload ─ runs producers and workers ─→ history → checks → verdict
"""
