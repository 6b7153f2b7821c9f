"""A connection to Ray, its nodes and the versions on them. The one module that imports Ray.

Ray reports to nobody from here: usage statistics are off, and no dashboard is started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iccld_cli.errors import IccldError, reason_of

INSTALL = "pip install 'iccld[ray]'"

PACKAGES = ("numpy", "opencv-python", "av", "pillow")
"""What frames are read and written with."""

NETWORKS = ("torch", "openvino", "onnxruntime")
"""What runs a model."""

_ANSWER = 5.0
"""Seconds that the head of a cluster may take to answer."""

_PROBE = 120.0
"""Seconds that a node may take to say its versions."""

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4  # the kind of frame that a server of HTTP/2, and so of Ray, begins with


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        key: Ray's id.
        name: What people call it.
        cpus: Processors that Ray may use.
        gpus: The same of GPUs.
    """

    key: str
    name: str
    cpus: int
    gpus: int


class Cluster:
    """A connected cluster.

    Attributes:
        ray: The library.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray

    def nodes(self) -> list[Node]:
        """The nodes that are alive, in the order of their names."""
        found = []
        for raw in self.ray.nodes():
            if not raw["Alive"]:
                continue
            has = raw["Resources"]
            address = str(raw.get("NodeManagerAddress") or "")
            host = str(raw.get("NodeManagerHostname") or address)
            name = f"{host} ({address}, {raw['NodeID'][:6]})"
            found.append(Node(raw["NodeID"], name, int(has.get("CPU", 0)), int(has.get("GPU", 0))))
        return sorted(found, key=lambda node: (node.name, node.key))

    def on(self, node: Node) -> Any:
        """Ray's way of saying that something runs on this node and nowhere else."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node.key, soft=False)

    def differing(self, nodes: Sequence[Node], packages: Sequence[str]) -> list[str]:
        """The nodes with other versions than this process, each in one sentence.

        Args:
            nodes: Which to ask.
            packages: Distributions that count.
        """
        versions = _probe()
        mine, remote = versions(list(packages)), self.ray.remote(versions)
        asked = [
            remote.options(num_cpus=0, scheduling_strategy=self.on(node), max_retries=0).remote(list(packages))
            for node in nodes
        ]
        found = []
        for node, answer in zip(nodes, asked, strict=True):
            try:
                theirs = self.ray.get(answer, timeout=_PROBE)
            except Exception as error:  # whatever happens there, the node cannot be used
                found.append(f"node {node.name} does not say its versions ({ray_reason(error)})")
                continue
            if words := _unlike(theirs, mine):
                found.append(f"node {node.name} has {words}")
        return found


def _unlike(theirs: Mapping[str, str | None], mine: Mapping[str, str | None]) -> str:
    if not theirs:
        return f"no iccld, and not {mine['iccld']}"
    return ", ".join(
        f"{name} {theirs.get(name) or 'not at all'} and not {version or 'none, as here'}"
        for name, version in mine.items()
        if theirs.get(name) != version
    )


def _probe() -> Callable[[list[str]], dict[str, str | None]]:
    """A function that Ray sends as it is, and not as a name in this package, which the node may not have."""

    def versions(packages: list[str]) -> dict[str, str | None]:
        import importlib.metadata

        try:
            from iccld_cli import __version__ as own
        except ImportError:
            return {}
        found: dict[str, str | None] = {"iccld": own}
        for name in packages:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        return found

    return versions


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Connect to a cluster, or start one of this machine alone; either ends with the block.

    A connection that the process has already is used, and stays.

    Args:
        address: See `work.Fleet`.

    Raises:
        IccldError: Ray is not installed, or nothing of Ray answers at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield Cluster(ray)
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    told: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        told |= {"address": "local", "include_dashboard": False}
    else:
        _reach(address)
        told["address"] = address
    try:
        ray.init(**told)
    except (Exception, SystemExit) as error:  # the library ends the process where a cluster does not let it in
        with contextlib.suppress(Exception):
            ray.shutdown()
        said = " ".join(str(error).split())[:300] if "ersion mismatch" in str(error) else ray_reason(error)
        where = "on this machine" if address is None else f"at {address}"
        hint = "check --ray-address, and that this machine has the cluster's versions of Ray and Python"
        hint = "see `iccld doctor`, and the space in /dev/shm and /tmp" if address is None else hint
        raise IccldError(f"no Ray {where} ({said})", hint) from None
    try:
        yield Cluster(ray)
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def import_ray() -> Any:
    """The library, which sends nothing home.

    Raises:
        IccldError: It is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it, a page about a later release
    try:
        import ray
    except ImportError as error:
        raise IccldError(f"--engine ray needs Ray, which is not installed ({reason_of(error)})", INSTALL) from None
    return ray


def _reach(address: str) -> None:
    """Ask an address whether anybody is there: Ray itself takes two minutes to find that out.

    Raises:
        IccldError: Nobody is, or no server of Ray's kind.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise IccldError(f"--ray-address {address} is no address", "write HOST:PORT of the cluster's head, or auto")
    hint = "check that it is the cluster's head (`ray start --head` prints it) and that it runs"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER) as line:
            line.settimeout(_ANSWER)
            line.sendall(_HELLO)
            answer = line.recv(9)
    except TimeoutError:
        raise IccldError(f"no Ray answers at {address} in {_ANSWER:.0f} seconds", hint) from None
    except OSError as error:
        raise IccldError(f"no Ray answers at {address} ({(error.strerror or str(error)).lower()})", hint) from None
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise IccldError(f"what answers at {address} is not Ray", hint)


def ray_reason(error: BaseException) -> str:
    """What an error of Ray says, in a few words."""
    if isinstance(error, SystemExit):
        return "it did not let this process in"
    name = type(error).__name__
    cause = getattr(error, "cause", None)
    if cause is not None and name.startswith("RayTaskError"):
        return f"{type(cause).__name__}: {reason_of(cause)}"
    if name == "OutOfMemoryError":
        return "the node ran out of memory"
    if name in ("NodeDiedError", "ActorUnschedulableError", "TaskUnschedulableError"):
        return "the node left the cluster"
    if name in ("ActorDiedError", "RayActorError", "WorkerCrashedError", "ActorUnavailableError"):
        return "its process ended, killed or for lack of memory"
    if name == "GetTimeoutError":
        return "it does not answer"
    return reason_of(error)
