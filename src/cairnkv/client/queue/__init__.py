"""Queues of clients and embedded stores: jobs, their leases, and workers."""
