"""The process that speaks to Ray for another one; see `medarts.system.cluster`.

Ray ends a driver whose cluster is lost, and some of its calls then wait without end. Here that ends this process alone,
and the other one can say what has happened.

Work that was lost with its worker or host is given to Ray again, and goes on from its checkpoint. Ray itself would try
it again too, but without a word, without end where memory ran out, and, where a host is cut off, only when TCP gives
up.
"""

import logging
import os
import pickle
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medarts.errors import MedartsError
from medarts.system import tasks
from medarts.system.cluster import HERE, LOCAL, Plan
from medarts.system.workers import HELD, PATIENCE, ProcessEndedError, write_into

RETRIES = 2
"""Times that work is given to another worker after its own was lost."""

_STORE = 80 * 2**20
"""Bytes of Ray's object store on this machine: work gives files back, no objects. Ray wants 75 MiB at least."""

_TURN = 0.5
"""Seconds between two signs of life, and two looks at the hosts."""

_STARTING = 300
"""Seconds that parts of a new Ray, and the first process of a host, may take to start."""

_FAREWELL = 10.0
"""Seconds that leaving the cluster may take."""


def serve(plan: Plan, channel: Connection) -> None:
    """Does what the other process says until that leaves, or the cluster is lost."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the terminal is for the process that waits
    if sys.platform != "win32":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # of a scheduler
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    write_into(plan.log)
    ray = None
    try:
        ray = _connected(plan)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of a scheduler, too; Ray has set a handler of its own
        broker = _Broker(plan, channel, ray)
        broker.check_hosts()
        broker.work()
    except MedartsError as error:
        with suppress(OSError):
            channel.send(("failed", error))
    if ray is not None:  # in a thread, as leaving a cluster that is lost may take for ever
        farewell = threading.Thread(target=ray.shutdown, daemon=True)
        farewell.start()
        farewell.join(_FAREWELL)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of Ray would wait


def _connected(plan: Plan) -> Any:
    """Returns Ray, connected to the cluster.

    Raises:
        MedartsError: it cannot be.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if plan.address == LOCAL:
        # Only this process and those that it starts have the token; and memory is limited as for processes without Ray.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ |= {**token, "RAY_memory_monitor_refresh_ms": "0"}
        # On a busy machine, too, and where many processes start at once; Ray would kill those that are late.
        os.environ.setdefault("RAY_agent_register_timeout_ms", str(1000 * _STARTING))
        os.environ.setdefault("RAY_worker_register_timeout_seconds", str(_STARTING))
        common |= {"num_cpus": plan.jobs * plan.cpus, "object_store_memory": _STORE, "include_dashboard": False}
    import ray

    try:
        ray.init(address=plan.address, **common)
    except Exception as error:  # Ray has no class for all of them
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if plan.address == LOCAL:
            raise MedartsError(f"Ray does not start: {reason.rstrip('.')}.", fix=f"See {plan.log}.") from error
        port = "6379" if plan.address == HERE else plan.address.rpartition(":")[2]
        raise MedartsError(
            f"There is no Ray cluster at {plan.address} that this host is part of: {reason.rstrip('.')}.",
            fix=f"On its head: ray start --head --port {port}; on every other host, such as this one: "
            f"ray start --address HEAD:{port}",
        ) from error
    return ray


@dataclass
class _Task:
    """Some work that was given to Ray.

    Attributes:
        name, log, work: of it.
        turn: how often it was given.
        losses: how often a worker was lost that had begun with it.
        stream: what comes of the latest turn.
        node: on which it is; "" until that is known.
        host: name of it.
        lost: when it was last lost.
    """

    name: str
    log: Path
    work: bytes
    turn: int = 0
    losses: int = 0
    stream: Any = None
    node: str = ""
    host: str = ""
    lost: float | None = None


class _Broker:
    """Gives work to Ray and says how it ends.

    Args:
        plan: see `Plan`.
        channel: to the other process.
        ray: connected to the cluster.
    """

    def __init__(self, plan: Plan, channel: Connection, ray: Any) -> None:
        self.plan, self.channel, self.ray = plan, channel, ray
        demands = {"num_cpus": plan.cpus, "num_gpus": plan.gpus, "max_retries": 0, "num_returns": "streaming"}
        once = {} if plan.reused else {"max_calls": 1}
        self.remote = ray.remote(**demands, **once)(tasks.do)
        self.tasks: dict[str, _Task] = {}
        self.events: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.Queue()
        self.nodes: list[dict[str, Any]] = ray.nodes()
        self.gone = self._gone()
        self.heard = self.able = time.monotonic()
        self.asked = False
        self.leaving: float | None = None

    # --- hosts ------------------------------------------------------------------------------------------------------

    def check_hosts(self) -> None:
        """Looks at every host that could do work.

        Raises:
            MedartsError: there is none, or one does not see what this one sees.
        """
        hosts = self._able()
        if not hosts:
            raise MedartsError(
                f"No host of the cluster {self.plan.address} has {self._demand()}.",
                fix="Add one that has, or lower compute.threads.",
            )
        token = f".cluster-{secrets.token_hex(8)}"
        seen = self.plan.folder / token
        seen.write_text(token, encoding="ascii")
        try:
            for node in hosts:
                self._check_host(node, token)
        finally:
            for path in self.plan.folder.glob(f"{token}*"):
                path.unlink(missing_ok=True)

    def _check_host(self, node: dict[str, Any], token: str) -> None:
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "max_retries": 1, "scheduling_strategy": strategy}
        look = self.ray.remote(**options)(_look())
        found = self._answer(node, look.remote(str(self.plan.folder), token, tasks.LIBRARIES))
        host = f"The host {found['host']} ({node['NodeManagerAddress']}) of the cluster"
        for name, here in self.plan.versions.items():
            there = found["versions"].get(name, "none")
            if there != here:
                raise MedartsError(f"{host} has {name} {there}, this one {here}.", fix="Install the same on all hosts.")
        folder = self.plan.folder
        if found["problem"] or not (folder / f"{token}-{found['host']}").exists():
            raise MedartsError(
                f"{host} does not see the folder {folder}: {found['problem'] or 'it has another one at this path'}.",
                fix="Use a folder that all hosts see at the same path, such as one on a file server.",
            )
        kind, answer = self._answer(
            node, self.ray.remote(**options)(tasks.asked).remote(self.plan.home, self.plan.same)
        )
        if kind == tasks.FAILED:
            error: MedartsError = pickle.loads(answer)
            raise MedartsError(f"{host} cannot do it: {error.problem}", fix=error.fix)
        if answer != self.plan.answer:
            raise MedartsError(f"{host} has other images than this one.", fix="Copy the data sets to it again.")

    def _answer(self, node: dict[str, Any], reference: Any) -> Any:
        patience = max(self.plan.patience, _STARTING)  # a process for it may have to start first
        until = time.monotonic() + patience
        try:
            while not self.ray.wait([reference], timeout=_TURN)[0]:
                self._send(("alive",))
                if time.monotonic() > until:
                    raise MedartsError(
                        f"The host {node['NodeManagerAddress']} of the cluster has not answered for {patience:.0f} s.",
                        fix="Take it out of the cluster, or raise compute.timeout.",
                    )
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            raise MedartsError(
                f"The host {node['NodeManagerAddress']} of the cluster cannot do any work: {_first_line(error)}.",
                fix='Install medarts on it: pip install "medarts[cluster,train]"',
            ) from error

    def _able(self) -> list[dict[str, Any]]:
        """Returns the hosts that have what work needs."""
        demands = {"CPU": self.plan.cpus, "GPU": self.plan.gpus}
        return [
            node
            for node in self.nodes
            if node["Alive"] and all(node["Resources"].get(name, 0) >= number for name, number in demands.items())
        ]

    def _demand(self) -> str:
        return f"{self.plan.cpus} CPU{'s' * (self.plan.cpus > 1)}" + (" and a GPU" if self.plan.gpus else "")

    def _gone(self) -> frozenset[str]:
        return frozenset(node["NodeID"] for node in self.nodes if not node["Alive"])

    def _watch_hosts(self) -> None:
        """Asks the head for its hosts, in a thread, as it may not answer."""
        while True:
            time.sleep(_TURN)
            with suppress(Exception):  # of a head that is gone, which is noticed by its silence
                nodes = self.ray.nodes()
                self.heard = time.monotonic()
                self.events.put((self._note_nodes, (nodes,)))

    def _note_nodes(self, nodes: list[dict[str, Any]]) -> None:
        """Gives the work of hosts that are gone to others."""
        self.nodes = nodes
        new = self._gone() - self.gone
        self.gone = self._gone()
        for task in [*self.tasks.values()] if new else ():
            if task.node in new:
                self._lose(task, "the host does not answer")
            elif not task.node and not self.asked:  # it may have been on its way there
                self._cancel(task)
                self._give(task)

    def _check_cluster(self) -> None:
        """Raises an error once nothing can be done any more.

        Raises:
            MedartsError: the head is silent, or no host is left.
        """
        now, patience, again = time.monotonic(), self.plan.patience, "Then the same command goes on."
        if now - self.heard > patience:
            raise MedartsError(
                f"The head of the cluster {self.plan.address} has not answered for {patience:.0f} s. What is saved is "
                "kept.",
                fix=f"Restore the connection, or start the cluster again. {again}",
            )
        if self._able() or not self.tasks:
            self.able = now
        if now - self.able > patience:
            raise MedartsError(
                f"The cluster {self.plan.address} has had no host with {self._demand()} for {patience:.0f} s. What is "
                "saved is kept.",
                fix=f"Add one, or restore the connection. {again}",
            )

    # --- work -------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Does what the other process says, until that leaves and what is in hand is saved.

        Raises:
            MedartsError: the cluster is lost.
        """
        for thread in (self._hear, self._watch_hosts):
            threading.Thread(target=thread, daemon=True).start()
        self._send(("ready",))
        reported, self.heard, self.able = 0.0, time.monotonic(), time.monotonic()  # looking at hosts has taken its time
        while self.leaving is None or (self.tasks and time.monotonic() - self.leaving < PATIENCE):
            with suppress(queue.Empty):
                act, about = self.events.get(timeout=_TURN)
                act(*about)
            if time.monotonic() - reported > _TURN:
                reported = time.monotonic()
                self._send(("alive",))
                self._check_cluster()

    def _hear(self) -> None:
        """Takes what the other process says, in a thread."""
        acts: dict[str, Callable[..., None]] = {"start": self._start, "stop": self._stop, "leave": self._leave}
        while True:
            try:
                kind, *about = self.channel.recv()
            except (EOFError, OSError):  # it was killed
                self.events.put((self._leave, ()))
                return
            self.events.put((acts[kind], tuple(about)))

    def _send(self, message: tuple[Any, ...]) -> None:
        with suppress(OSError):  # nobody waits any more
            self.channel.send(message)

    def _start(self, name: str, log: Path, work: bytes) -> None:
        self.tasks[name] = _Task(name, log, work)
        self._give(self.tasks[name])

    def _stop(self) -> None:
        if not self.asked:
            self.asked = True
            for task in self.tasks.values():
                self._cancel(task)

    def _leave(self) -> None:
        self.leaving = self.leaving or time.monotonic()
        self._stop()

    def _cancel(self, task: _Task) -> None:
        """Asks some work to stop, as Ctrl-C does: where it can be saved it is."""
        self.ray.cancel(task.stream, force=False)

    def _give(self, task: _Task) -> None:
        """Gives some work to Ray."""
        task.turn, task.node = task.turn + 1, ""
        task.stream = self.remote.remote(self.plan.home, task.log, task.work)
        threading.Thread(target=self._follow, args=(task.name, task.turn, task.stream), daemon=True).start()

    def _follow(self, name: str, turn: int, stream: Any) -> None:
        """Takes what comes of some work, in a thread."""
        try:
            for reference in stream:
                self.events.put((self._take, (name, turn, self.ray.get(reference))))
        except Exception as error:  # of Ray, which has many
            self.events.put((self._miss, (name, turn, error)))

    def _take(self, name: str, turn: int, answer: tuple[Any, ...]) -> None:
        """Takes where some work is done, or how it ended."""
        task = self.tasks.get(name)
        if task is None or task.turn != turn:  # given to another meanwhile
            return
        if len(answer) == 3:
            task.node, task.host = answer[:2]
            return
        kind, error = answer
        if kind == tasks.STOPPED and not self.asked:
            self._lose(task, "it was asked to stop")
        elif kind == tasks.HELD and task.lost is not None and time.monotonic() - task.lost < self._until_saved():
            self._give(task)  # who was cut off from the head may be at it until it notices
        else:
            self._end(task, error or None, stopped=kind == tasks.STOPPED)

    def _until_saved(self) -> float:
        """Returns the seconds after which a worker that was cut off has noticed and saved what it does."""
        return self.plan.patience + 2 * PATIENCE

    def _miss(self, name: str, turn: int, error: Exception) -> None:
        """Takes that some work ended without an answer."""
        task = self.tasks.get(name)
        if task is None or task.turn != turn:
            return
        if self.asked:
            self._end(task, None, stopped=True)
        elif isinstance(error, self.ray.exceptions.OutOfMemoryError):
            self._fail(task, "The system killed its process, as it does where memory runs out.")
        else:
            self._lose(task, _first_line(error))

    def _lose(self, task: _Task, reason: str) -> None:
        """Gives some work that was lost to Ray again, unless that was in vain too often."""
        if self.asked:
            self._end(task, None, stopped=True)
        elif task.losses == RETRIES:
            where = f"on {task.host}; see {task.log}" if task.host else f"({reason})"
            self._fail(task, f"Its worker was lost {RETRIES + 1} times, at last {where}.")
        else:
            where = f" on {task.host}" if task.host else ""
            self._send(("note", f"{task.name}: its worker{where} was lost ({reason}). Another one goes on."))
            task.losses, task.lost = task.losses + 1, time.monotonic()
            self._give(task)

    def _fail(self, task: _Task, problem: str) -> None:
        self._end(task, pickle.dumps(ProcessEndedError(problem, fix="")), stopped=False)

    def _end(self, task: _Task, error: bytes | None, *, stopped: bool) -> None:
        del self.tasks[task.name]
        self._send(("ended", task.name, error, stopped))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _look() -> Callable[[str, str, tuple[str, ...]], dict[str, Any]]:
    """Returns what looks at a host. Ray sends it whole, as it is no function of a module: medarts may not be there."""

    def look(folder: str, token: str, libraries: tuple[str, ...]) -> dict[str, Any]:
        import platform
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path

        found = {"Python": ".".join(platform.python_version_tuple()[:2])}
        for name in libraries:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        try:
            from medarts import __version__

            found["medarts"] = __version__
        except ImportError:
            found["medarts"] = "none"
        host, problem = platform.node(), ""
        try:
            seen = Path(folder) / token
            if seen.read_text(encoding="ascii") == token:
                seen.with_name(f"{token}-{host}").touch()
        except OSError as error:
            problem = error.strerror or type(error).__name__
        return {"host": host, "versions": found, "problem": problem}

    return look
