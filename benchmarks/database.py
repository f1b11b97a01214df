"""A database without a server: rates, the longest single step while it grows, and the memory of a key.

`python benchmarks/database.py [KEYS]`: by default a million keys of 16 bytes with values of 100 bytes. Compare figures
of one run with each other, not with another run.
"""

import resource
import sys
import time

from cairnkv.commands import ClearAll, Get, Items, Scan, Set
from cairnkv.engine import Database, apply


def resident_bytes() -> int:
    """Return the maximum memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(count: int) -> None:
    """Fill a database, read it, scan it and clear it. Print the times."""
    database = Database()
    before = resident_bytes()
    longest = 0.0
    spent = 0.0
    for n in range(count):
        command = Set(b"%016d" % n, bytes(100))
        began = time.thread_time()
        apply(database, command, 0)
        step = time.thread_time() - began
        spent += step
        longest = max(longest, step)
    print(f"set    {count / spent:12,.0f} a second of CPU, the longest step {longest * 1000:.2f} ms")
    memory = (resident_bytes() - before) / count
    print(f"memory {memory:12,.0f} bytes a key resident, {database.used_bytes / count:.0f} by the store's estimate")
    began = time.thread_time()
    for n in range(0, count, 7):
        apply(database, Get(b"%016d" % n), 0)
    print(f"get    {count / 7 / (time.thread_time() - began):12,.0f} a second of CPU")
    cursor, found, longest, began = 0, 0, 0.0, time.thread_time()
    while True:
        slice_began = time.thread_time()
        reply = apply(database, Scan(cursor, 1_000, b""), 0)
        longest = max(longest, time.thread_time() - slice_began)
        assert isinstance(reply, Items)
        cursor, found = int(reply.values[0] or 0), found + len(reply.values) - 1
        if cursor == 0:
            break
    rate = found / (time.thread_time() - began)
    print(f"scan   {rate:12,.0f} keys a second of CPU, the longest slice {longest * 1000:.2f} ms")
    began = time.thread_time()
    apply(database, ClearAll(), 0)
    swap = time.thread_time() - began
    longest = 0.0
    more = True
    while more:
        began = time.thread_time()
        more = database.free_slice()
        longest = max(longest, time.thread_time() - began)
    print(f"clear  {swap * 1000:12.3f} ms to clear them all, the longest slice of freeing {longest * 1000:.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
