"""A cluster on this machine: NATS servers and store nodes as processes, watched, started again, and hurt on purpose.

A `LocalCluster` (`local`) asks a `Supervisor` (`supervisor`, which has a map of the other rooms), in this process or in
that of `cairn cluster up`. What is supervised are processes (`child`) of two kinds (`nats`, `node`), in network
namespaces if they are to be cut off (`network`).

For trying out, tests and checks. Not for machines in service, where systemd or containers keep processes
(docs/cluster.md).
"""

from cairnkv.lab.cluster.local import LocalCluster, end_left_over
from cairnkv.lab.cluster.machines import ClusterError, Machine, Process, Role, State

__all__ = ["ClusterError", "LocalCluster", "Machine", "Process", "Role", "State", "end_left_over"]
