"""The system's information about its TCP sockets."""

from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_KEEPALIVE_TIMER = "02"
_ESTABLISHED = "01"


def keepalive_seconds(*, remote_port: int | None = None, local_port: int | None = None) -> list[float]:
    """Seconds to the next keepalive probe, of each connection with these ports that has such a timer (Linux)."""
    found = []
    for table in filter(Path.exists, _TABLES):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            local, remote = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
            timer, _, left = fields[5].partition(":")
            if (
                fields[3] == _ESTABLISHED
                and timer == _KEEPALIVE_TIMER
                and local_port in (None, local)
                and remote_port in (None, remote)
            ):
                found.append(int(left, 16) / 100)
    return found
