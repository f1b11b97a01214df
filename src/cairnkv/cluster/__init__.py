"""A cluster on this machine: NATS servers and store nodes as processes, watched, started again, and hurt on purpose."""

from cairnkv.cluster.local import LocalCluster
from cairnkv.cluster.machines import ClusterError, Machine, Process, Role, State

__all__ = ["ClusterError", "LocalCluster", "Machine", "Process", "Role", "State"]
