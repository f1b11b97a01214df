"""Local test clusters: NATS servers and store nodes as processes of this computer, supervised, with fault injection.

A cluster has simulated hosts. Host 2 is the processes `nats-2` and `node-2`, which fail together and may have a network
namespace (`network`). A `Supervisor` (`supervisor`) starts and watches the processes. A `LocalCluster` (`local`) sends
requests to a supervisor, in this process or in that of `cairn cluster up`.

Out of scope: production clusters, whose processes systemd or containers supervise (docs/cluster.md).
"""

from cairnkv.lab.cluster.hosts import ClusterError, Host, Process, Role, State
from cairnkv.lab.cluster.local import LocalCluster, end_left_over

__all__ = ["ClusterError", "Host", "LocalCluster", "Process", "Role", "State", "end_left_over"]
