"""Who starts a cluster's processes, watches them, starts them again, and hurts them when asked.

What always holds: one supervisor for a directory; all state is changed under its lock, and nothing that waits is done
there, but for the system to end a killed process. What ended by itself is started again, sooner or later; what was
killed on request stays down until a request starts it. A NATS server that runs, but has switched its JetStream off
since its disk was full, counts as one that has ended. The state file names all processes that run, at any time when the
disk has room for it.

Not for telling people (`cairnkv.cli.cluster`), nor for requests from other processes (`control`).
"""

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from cairnkv.cluster import state
from cairnkv.cluster.child import STOP_PATIENCE, Identity, identity
from cairnkv.cluster.control import ControlServer
from cairnkv.cluster.health import READY, SILENT, Health
from cairnkv.cluster.health import ask as ask_health
from cairnkv.cluster.machines import NODES, ClusterError, Machine, Process, Role, State, Target, parsed_target
from cairnkv.cluster.nats import NatsConfig, NatsServer, authority, file_share, free_ports
from cairnkv.cluster.network import Network
from cairnkv.cluster.node import Command, Node, NodeConfig, serve_command
from cairnkv.errors import CairnError, OptionError
from cairnkv.limits import MIB, PORT
from cairnkv.log.quorum.options import LOG_LIMIT, LOG_LIMIT_LEAST, REPLICAS, parsed_name
from cairnkv.records import replace

LOOPBACK: Final = "127.0.0.1"

START_PATIENCE: Final = 60.0
"""Seconds that a cluster may take until all of it is ready; it takes about four."""

START_ATTEMPTS: Final = 2
"""How often a process that ends is started again before a cluster that is starting is given up."""

AGAIN_FIRST: Final = 0.5
AGAIN_MAX: Final = 10.0
"""Seconds from the end of a process to its next start, doubled with each, and from where on that begins anew:"""
STEADY_SECONDS: Final = 30.0

LOOK_EVERY: Final = 0.05
"""Seconds between two looks at processes."""

HEALTH_EVERY: Final = 1.0
"""Seconds between two questions to a NATS server whether it can write."""

SICK_LOOKS: Final = 2
"""So often in a row it has to say no, or a node nothing."""

SNAPSHOT_PART: Final = 2
"""How many times its log a NATS server has room for: snapshots and what has not been compacted yet are there, too."""

PORT_STEP: Final = 100
"""With --port BASE, nodes have BASE and up; NATS' ports for clients, servers and health begin this far from another."""

NATS_PORTS: Final = (4222, 6222, 8222)
"""Those of NATS itself, for clients, servers and health: in a namespace nothing else has them."""

NOTES_MAX: Final = 1_000
"""Lines that have not been told yet; older ones are forgotten."""

SOCKET: Final = "cluster.sock"
SOCKET_PATH_MAX: Final = 100
"""Bytes that the path of a Unix socket may have: 103 or 107 by the system."""


_Ports: TypeAlias = tuple[int, int, int, int]
"""A machine's: of its node, and of its NATS for clients, servers and health."""


class _Charge:
    """One supervised process. Changed under the supervisor's lock."""

    def __init__(self, child: NatsServer | Node, role: Role, machine: int, address: str) -> None:
        self.child = child
        self.role = role
        self.machine = machine
        self.address = address
        self.state = State.STOPPED
        self.restarts = 0
        self.why = ""
        self.delay = AGAIN_FIRST
        self.due = 0.0
        """When it is started again, if it is FAILED."""
        self.since = 0.0
        """When it was started last."""
        self.before_pause = State.STARTING
        self.sick_looks = 0
        self.next_look = 0.0
        self.end_by: float | None = None
        """When it is killed, if it was told to end so that it is started anew."""
        self.health = READY
        """What a node says of itself."""

    @property
    def name(self) -> str:
        return self.child.name

    def described(self) -> Process:
        """As others see it."""
        pid, state = self.child.pid, self.state
        if pid is None and state in (State.STARTING, State.READY, State.PAUSED):
            state = State.FAILED  # and the watcher will see it, too
        why = self.why
        if self._health_tells(state):
            state, why = self.health.state, self.health.why or why
        return Process(self.name, self.role, self.machine, self.address, state, pid, self.restarts, why)

    def _health_tells(self, state: State) -> bool:
        """Whether what it says of itself is news. Before a node is ready, it is whether it serves at all by now."""
        return self.health != READY and (
            state is State.READY or (state is State.STARTING and self.health.state is State.JOINING)
        )

    @property
    def stopped_itself(self) -> bool:
        """Whether it runs and takes no part any more."""
        return self.state is State.READY and self.child.running and self.health.state is State.STOPPED


class Supervisor:
    """Of one cluster. `start` once, `stop` once; requests from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int | None = None,
        name: str | None = None,
        port: int = 0,
        namespaces: bool = False,
        log_limit: int | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Command = serve_command,
        sync: str | None = "always",
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """See `LocalCluster.up`. tell: told what happens, line by line, from any thread."""
        self.directory = directory.absolute()
        self._wanted = (nodes, name, log_limit)
        self._port = port
        self._namespaces = namespaces
        self._flags = tuple(flags)
        self._environment = tuple((environment or {}).items())
        self._command = command
        self._sync = sync
        self._tell = tell
        self._notes: deque[str] = deque(maxlen=NOTES_MAX)
        """What is to be told, since nothing is told under the lock: whoever is told may ask."""
        self._state_lock: state.Lock | None = None
        self._lock = threading.RLock()
        self._charges: dict[str, _Charge] = {}
        self._cut: set[int] = set()
        self._network: Network | None = None
        self._control: ControlServer | None = None
        self._threads: list[threading.Thread] = []
        # Plain flags, which a signal handler may set at any moment, as it may not set a `threading.Event`.
        self._ending = False
        self._hurry = False
        self._ended = False
        self._restarting = False
        """Whether what ends is started again without end: not while the cluster starts."""
        self._socket_directory: str | None = None
        self._unsaved = False
        """Whether the state file is behind."""
        self.plan = state.Plan(0, "", 0)
        self.nats_urls: tuple[str, ...] = ()
        self.nats_system = ""

    # -- the beginning --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it all, and wait until it is ready. After an error nothing is left running.

        Raises `OptionError`, `ClusterError`.
        """
        if self._wanted[0] not in (None, *NODES):
            raise OptionError(
                f"a cluster has {' or '.join(map(str, NODES))} nodes here, not {self._wanted[0]}: its log is kept by "
                f"{REPLICAS} machines, and an even number survives no more failures than one fewer. For a single node "
                "take `cairn serve --data DIR`"
            )
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            saved = state.load(self.directory)
            if saved is None and any(entry.name != state.LOCK for entry in self.directory.iterdir()):
                raise OptionError(f"{self.directory} has no cluster in it, but other things: choose another directory")
            self._state_lock = state.Lock(self.directory)
        except OSError as error:
            raise OptionError(f"{self.directory} cannot be used: {error}") from None
        try:
            self._start(state.load(self.directory))
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError) and not isinstance(error, CairnError):
                raise ClusterError(f"the cluster cannot be started: {error}") from error
            raise

    def _start(self, saved: state.Saved | None) -> None:
        if saved is not None:
            if left := state.left_over(saved):
                self._tell(f"ending what a supervisor that crashed has left: {', '.join(left)}")
            state.clean_up(self.directory, saved)
        nodes = self._wanted[0] or (NODES[0] if saved is None else saved.plan.nodes)
        share = file_share(self.directory, nodes)
        self.plan = self._planned(saved, nodes, share)
        self._network = Network.made(self.plan.nodes) if self._namespaces else None
        # A log that is there needs its room also when others have filled the disk since: NATS does not open it else.
        for charge in self._made(max(share, SNAPSHOT_PART * self.plan.log_limit)):
            self._charges[charge.name] = charge
        self._save()
        self._control = ControlServer(self.socket, self.ask)
        for target in (self._watch, self._look_at_health, self._look_at_nodes):
            thread = threading.Thread(target=target, name=f"cairn-cluster-{target.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)
        for role in (Role.NATS, Role.NODE):  # a node that comes before its NATS would only wait for it
            with self._lock:
                for charge in self._of(role):
                    self._launch(charge)
            self._await_all(self._of(role), START_PATIENCE)
        with self._lock:
            self._restarting = True

    def _planned(self, saved: state.Saved | None, nodes: int, share: int) -> state.Plan:
        """What was wanted, where it does not differ from what the data say."""
        _, name, log_limit = self._wanted
        if saved is not None:
            had = saved.plan
            if nodes != had.nodes or name not in (None, had.name) or log_limit not in (None, had.log_limit):
                raise OptionError(
                    f"{self.directory} has a cluster of {had.nodes} nodes named {had.name}, with a log of "
                    f"{had.log_limit // MIB} MiB: ask for no other, or choose another directory"
                )
            return had
        room = share // SNAPSHOT_PART
        limit = min(LOG_LIMIT, room) if log_limit is None else log_limit
        if limit > room or limit < LOG_LIMIT_LEAST:
            raise OptionError(
                f"a log of {limit // MIB} MiB cannot be: it has at least {LOG_LIMIT_LEAST // MIB} MiB, and the disk of "
                f"{self.directory} has room for one of {room // MIB} MiB with its snapshots on each of "
                f"{nodes} machines"
            )
        try:
            return state.Plan(nodes, parsed_name(name or "cairn"), limit)
        except ValueError as error:
            raise OptionError(f"the cluster's name is {error}") from None

    def _made(self, share: int) -> Iterator[_Charge]:
        """All processes, none of which is started yet."""
        hosts, ports = self._places()
        numbers = range(1, self.plan.nodes + 1)
        password, system_password = secrets.token_hex(16), secrets.token_hex(16)
        servers = [
            NatsConfig(
                name=f"nats-{number}",
                directory=self.directory / f"nats-{number}",
                host=host,
                port=port,
                route_port=route_port,
                monitor_port=monitor_port,
                routes=tuple((host, ports[2]) for host, ports in zip(hosts, ports, strict=True)),
                password=password,
                system_password=system_password,
                file_max=share,
                sync=self._sync,
            )
            for number, host, (_, port, route_port, monitor_port) in zip(numbers, hosts, ports, strict=True)
        ]
        self.nats_urls = tuple(server.url for server in servers)
        self.nats_system = servers[0].system
        for number, server, host, (port, *_) in zip(numbers, servers, hosts, ports, strict=True):
            prefix = self._network.prefix(number) if self._network else ()
            address = f"nats://{authority(server.host, server.port)}"
            yield _Charge(NatsServer(server, prefix=prefix), Role.NATS, number, address)
            node = NodeConfig(
                name=f"node-{number}",
                directory=self.directory / f"node-{number}",
                host=host,
                port=port,
                cluster=self.plan.name,
                # Its own machine's first: it is the nearest, and fails with it.
                nats=(server.url, *(other.url for other in servers if other is not server)),
                system=server.system,
                log_limit=self.plan.log_limit,
                flags=(*(("--insecure",) if self._network else ()), *self._flags),
                environment=self._environment,
            )
            yield _Charge(Node(node, command=self._command, prefix=prefix), Role.NODE, number, node.address)

    def _places(self) -> tuple[list[str], list[_Ports]]:
        """Each machine's host, and its ports."""
        count = self.plan.nodes
        if self._network is not None:
            hosts = [self._network.host(number) for number in range(1, count + 1)]
            return hosts, [(self._port or PORT, *NATS_PORTS)] * count
        hosts = [LOOPBACK] * count
        if not self._port:
            free = iter(free_ports(4 * count))
            return hosts, [(next(free), next(free), next(free), next(free)) for _ in hosts]
        node, nats, routes, monitor = (range(self._port + step * PORT_STEP, 65_536)[:count] for step in range(4))
        if len(monitor) < count:
            raise OptionError(f"port {self._port} is too high: ports up to {3 * PORT_STEP + count} above it are needed")
        for port in (*node, *nats, *routes, *monitor):
            _check_free(port)
        return hosts, [*zip(node, nats, routes, monitor, strict=True)]

    def _launch(self, charge: _Charge) -> None:
        """Start a process, or have it count as one that ended at once. Under the lock."""
        charge.since = time.monotonic()
        charge.sick_looks = 0
        charge.next_look = 0.0
        charge.end_by = None
        charge.health = READY
        charge.state = State.STARTING
        try:
            charge.child.start()
        except (OSError, OptionError) as error:
            self._has_failed(charge, str(error))
        self._save()

    # -- watching -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._wait():
            with self._lock:
                for charge in self._charges.values():
                    if not self._ending:
                        self._look_after(charge, time.monotonic())
                if self._unsaved:
                    self._save()
            self._tell_notes()

    def _look_after(self, charge: _Charge, now: float) -> None:
        child = charge.child
        if charge.state in (State.STOPPED, State.KILLED):
            return
        if child.running:
            if charge.end_by is not None:
                if now > charge.end_by:
                    with contextlib.suppress(TimeoutError):  # it is looked at again
                        child.kill()
            elif charge.state is State.STARTING and isinstance(child, Node) and child.says_ready():
                charge.state = State.READY
                charge.health = READY
            elif charge.state is State.READY and now - charge.since > STEADY_SECONDS:
                charge.delay = AGAIN_FIRST
        elif charge.state is not State.FAILED or charge.end_by is not None:
            self._has_failed(charge, charge.why if charge.end_by is not None else child.end)
        elif now >= charge.due and (self._restarting or charge.restarts < START_ATTEMPTS):
            charge.restarts += 1
            self._note(f"{charge.name}: starting it again")
            self._launch(charge)

    def _note(self, text: str) -> None:
        self._notes.append(text)

    def _tell_notes(self) -> None:
        while self._notes:
            text = self._notes.popleft()
            with contextlib.suppress(OSError):  # who was told may have gone, such as a terminal; the cluster goes on
                self._tell(text)

    def _has_failed(self, charge: _Charge, why: str) -> None:
        charge.state = State.FAILED
        charge.why = why
        charge.end_by = None
        charge.due = time.monotonic() + charge.delay
        self._note(f"{charge.name} {why}; it is started again in {charge.delay:g} s; see {charge.child.log}")
        charge.delay = min(2 * charge.delay, AGAIN_MAX)
        self._save()

    def _look_at_health(self) -> None:
        """In a thread of its own: a server may take its time to answer."""
        while not self._wait():
            for charge in self._of(Role.NATS):
                child = charge.child
                with self._lock:
                    pid, before, now = child.pid, charge.state, time.monotonic()
                    if before not in (State.STARTING, State.READY) or pid is None or now < charge.next_look:
                        continue
                assert isinstance(child, NatsServer)
                ready = before is State.READY or child.has_leader()
                sick = child.switched_off() if before is State.READY else ""
                with self._lock:
                    if child.pid == pid and charge.state is before:
                        charge.next_look = time.monotonic() + (HEALTH_EVERY if ready else 2 * LOOK_EVERY)
                        self._judge(charge, ready, sick)

    def _judge(self, charge: _Charge, ready: bool, sick: str) -> None:
        if ready:
            charge.state = State.READY
        charge.sick_looks = charge.sick_looks + 1 if sick else 0
        if charge.sick_looks >= SICK_LOOKS:
            charge.state = State.FAILED
            charge.why = f"cannot write any more, which its disk being full may have brought about ({sick})"
            charge.end_by = time.monotonic() + STOP_PATIENCE
            charge.child.tell_to_stop()

    def _look_at_nodes(self) -> None:
        """Ask nodes what they say of themselves, in a thread of its own: those that hang do not answer at once."""
        next_look = 0.0
        while not self._wait():
            if time.monotonic() < next_look:
                continue
            next_look = time.monotonic() + HEALTH_EVERY
            for charge in self._of(Role.NODE):
                with self._lock:
                    pid, before = charge.child.pid, charge.state
                if self._ending or pid is None or before not in (State.STARTING, State.READY):
                    continue
                health = ask_health(charge.address)
                with self._lock:
                    if charge.child.pid == pid and charge.state is before:
                        self._judge_node(charge, health)

    def _judge_node(self, charge: _Charge, health: Health) -> None:
        before = charge.health
        charge.sick_looks = charge.sick_looks + 1 if health == SILENT else 0
        if health == SILENT and (charge.state is State.STARTING or charge.sick_looks < SICK_LOOKS):
            return
        charge.health = health
        if charge.state is State.READY and health.state is not before.state:
            why = f": {health.why}" if health.why else ""
            self._note(f"{charge.name} is {_SAID.get(health.state, health.state.value)}{why}{self._remedy(charge)}")

    def _remedy(self, charge: _Charge) -> str:
        """What to do about a node that has stopped by itself, if its reason does not say it."""
        reason = charge.health.why
        if not charge.stopped_itself or "repair" in reason or "release" in reason:
            return ""
        verbs = ("wipe", "start") if "wipe" in reason else ("start",)
        commands = " and ".join(f"`cairn cluster {verb} {charge.name} --dir {self.directory}`" for verb in verbs)
        return f"; {commands} has it begin again"

    # -- requests -------------------------------------------------------------------------------------------------

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Do what is asked: `{"do": "kill", "what": "2"}`. Raises `OptionError`, `ClusterError`."""
        match request:
            case {"do": "describe"}:
                return self.described()
            case {"do": "stop"}:
                self.tell_to_stop()
                return None
            case {"do": str(verb), "what": str(what)} if verb in _VERBS:
                target = parsed_target(what, self.plan.nodes)
                with self._lock:
                    if self._ending:
                        raise ClusterError("the cluster is stopping")
                    try:
                        _VERBS[verb](self, target)
                    except OSError as error:
                        raise ClusterError(f"{verb} {what}: {error}") from None
                    self._save()
                return None
        raise OptionError(f"there is no such request: {request!r}")

    def described(self) -> dict[str, Any]:
        """Everything that others may know, as JSON has it."""
        with self._lock:
            machines = [
                Machine(
                    number,
                    self._charges[f"nats-{number}"].described(),
                    self._node_described(self._charges[f"node-{number}"]),
                    number in self._cut,
                ).as_json()
                for number in range(1, self.plan.nodes + 1)
            ]
        return {
            "directory": str(self.directory),
            "name": self.plan.name,
            "log_limit": self.plan.log_limit,
            "namespaces": self._network is not None,
            "supervisor": os.getpid(),
            "nats_urls": list(self.nats_urls),
            "nats_system": self.nats_system,
            "machines": machines,
        }

    def _node_described(self, charge: _Charge) -> Process:
        process = charge.described()
        return replace(process, why=f"{process.why}{self._remedy(charge)}") if charge.stopped_itself else process

    def _kill(self, target: Target) -> None:
        meant = self._meant(target)
        if all(charge.state is State.KILLED for charge in meant):
            raise OptionError(f"{target} cannot be killed: it is so already")
        self._end_at_once(meant)

    def _end_at_once(self, charges: Sequence[_Charge]) -> None:
        for charge in charges:
            charge.state = State.KILLED  # before it ends, which the watcher may see
            charge.child.kill()

    def _start_again(self, target: Target) -> None:
        meant = self._meant(target)
        down = [one for one in meant if one.state in (State.KILLED, State.FAILED) or one.stopped_itself]
        if not down:
            raise OptionError(f"{target} runs already")
        for charge in down:
            if charge.child.running:  # it is about to end, or has stopped and does nothing more
                charge.child.kill()
            charge.delay = AGAIN_FIRST
            self._launch(charge)

    def _pause(self, target: Target) -> None:
        running = self._running(target, "paused")
        for charge in running:
            charge.before_pause = charge.state
            charge.state = State.PAUSED
            charge.child.pause()

    def _resume(self, target: Target) -> None:
        paused = [charge for charge in self._meant(target) if charge.state is State.PAUSED]
        if not paused:
            raise OptionError(f"{target} is not paused")
        for charge in paused:
            charge.state = charge.before_pause
            charge.next_look = time.monotonic() + HEALTH_EVERY
            charge.child.resume()

    def _cut_off(self, target: Target) -> None:
        network = self._networked(target, "cut")
        if target.machine in self._cut:
            raise OptionError(f"{target} cannot be cut off: it is so already")
        self._cut.add(target.machine)  # before it is done: what is half done can be healed
        network.cut(target.machine)

    def _heal(self, target: Target) -> None:
        network = self._networked(target, "heal")
        if target.machine not in self._cut:
            raise OptionError(f"{target} is not cut off")
        network.heal(target.machine)
        self._cut.discard(target.machine)

    def _wipe(self, target: Target) -> None:
        self._end_at_once(self._meant(target))
        for charge in self._meant(target):
            data = charge.child.config.directory / "data"
            if data.exists():
                shutil.rmtree(data)

    def _networked(self, target: Target, verb: str) -> Network:
        if not target.whole:
            raise OptionError(f"a whole machine is taken off the network, not one process: {verb} {target.machine}")
        if self._network is None:
            raise OptionError(
                f"{verb} needs a cluster whose machines have network namespaces: start it with --namespaces (as root, "
                "on Linux). `pause` works everywhere, and is much like it to the others"
            )
        return self._network

    def _meant(self, target: Target) -> list[_Charge]:
        return [self._charges[f"{role.value}-{target.machine}"] for role in target.roles]

    def _running(self, target: Target, done: str) -> list[_Charge]:
        running = [
            charge
            for charge in self._meant(target)
            if charge.state in (State.STARTING, State.READY) and charge.child.running
        ]
        if not running:
            raise OptionError(f"{target} cannot be {done}: it is {self._meant(target)[0].described().state.value}")
        return running

    def _of(self, role: Role) -> list[_Charge]:
        return [charge for charge in self._charges.values() if charge.role is role]

    # -- waiting --------------------------------------------------------------------------------------------------

    def _await_all(self, charges: Sequence[_Charge], patience: float) -> None:
        """Wait until they are ready. Raises `ClusterError`."""
        until = time.monotonic() + patience
        while True:
            with self._lock:
                if self._ending:
                    raise ClusterError("the cluster was stopped while it started")
                late = [charge for charge in charges if charge.state is not State.READY]
                given_up = [one for one in late if one.state is State.FAILED and one.restarts >= START_ATTEMPTS]
            if not late:
                return
            if given_up or time.monotonic() > until:
                charge = (given_up or late)[0]
                said = "\n".join(charge.child.log_tail().splitlines()[-_LINES:])
                what = charge.why if given_up else f"was not ready after {patience:g} s"
                raise ClusterError(f"{charge.name} {what}; it said, in {charge.child.log}:\n{said}")
            time.sleep(LOOK_EVERY)

    # -- the end --------------------------------------------------------------------------------------------------

    def tell_to_stop(self) -> None:
        """Have `told_to_stop` return, or `start` give up. May be called in a signal handler."""
        self._ending = True

    def hurry(self) -> None:
        """Have `stop` wait for nobody. May be called in a signal handler."""
        self._hurry = True

    def told_to_stop(self) -> None:
        """Wait until it was told to stop."""
        while not self._wait():
            pass

    def _wait(self) -> bool:
        """Wait a little; gives whether the end has come."""
        time.sleep(LOOK_EVERY)
        return self._ending

    def stop(self) -> None:
        """End all in good order: nodes first, then NATS. Then nothing runs, and the directory is free."""
        self._ending = True
        if self._state_lock is None or self._ended:
            return
        for thread in self._threads:
            thread.join()
        with self._lock:  # whatever is being done is done; from here on requests change nothing
            machines = [*self._cut]
        if self._network is not None:
            for machine in machines:
                with contextlib.suppress(ClusterError):
                    self._network.heal(machine)
        for role in (Role.NODE, Role.NATS):
            self._end(self._of(role))
        self._tell_notes()
        if self._network is not None:
            self._network.remove()
        if self._control is not None:
            self._control.close()
        if self.plan.nodes:
            with contextlib.suppress(OSError):  # who comes next finds that none of the processes is there
                state.save(self.directory, state.Saved(self.plan, None))
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
        self._ended = True
        self._state_lock.free()

    def _end(self, charges: Sequence[_Charge]) -> None:
        for charge in charges:
            charge.child.tell_to_stop()
        until = time.monotonic() + STOP_PATIENCE
        for charge in charges:
            while not charge.child.wait(LOOK_EVERY):
                if time.monotonic() > until or self._hurry:
                    self._note(f"{charge.name} is killed, since it does not end")
                    try:
                        charge.child.kill()
                    except TimeoutError as error:
                        self._note(str(error))
                        break
            charge.state = State.STOPPED

    # -- the state file -------------------------------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        """Where requests of other processes are taken: in the directory, if its path is short enough."""
        path = self.directory / SOCKET
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            return path
        if self._socket_directory is None:
            self._socket_directory = tempfile.mkdtemp(prefix="cairn-")
        return Path(self._socket_directory) / SOCKET

    def _save(self) -> None:
        """Write who runs. Under the lock, after every change."""
        supervisor = identity(os.getpid())
        assert supervisor is not None, "this process exists"
        found = {name: charge.child.pid for name, charge in self._charges.items()}
        whos = {name: identity(pid) for name, pid in found.items() if pid is not None}
        processes: dict[str, Identity] = {name: whom for name, whom in whos.items() if whom is not None}
        network = None if self._network is None else (self._network.number, self._network.token)
        run = state.Run(supervisor, str(self.socket), network, processes)
        try:
            state.save(self.directory, state.Saved(self.plan, run))
        except OSError as error:  # such as on a full disk, which is when processes fail, too
            if not self._unsaved:
                self._note(f"{self.directory / state.FILE} cannot be written: {error}; this is tried again")
            self._unsaved = True
        else:
            self._unsaved = False


_SAID: Final = {State.READY: "ready again", State.NO_QUORUM: "without quorum"}
"""How a node's new state is told, where that is not its name."""

_LINES: Final = 5
"""Of a log that are shown."""

_VERBS: Final[dict[str, Callable[[Supervisor, Target], None]]] = {
    "kill": Supervisor._kill,
    "start": Supervisor._start_again,
    "pause": Supervisor._pause,
    "resume": Supervisor._resume,
    "cut": Supervisor._cut_off,
    "heal": Supervisor._heal,
    "wipe": Supervisor._wipe,
}


def _check_free(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
        try:
            trial.bind((LOOPBACK, port))
        except OSError as error:
            raise OptionError(
                f"port {port} cannot be had: {os.strerror(error.errno or 0)}; choose others with --port, or any that "
                "are free with --port 0"
            ) from None
