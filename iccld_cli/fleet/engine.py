"""Parts handed out to workers, one worker a node or a GPU, until all are made.

A part belongs to one worker at a time. What dies with its worker, or fails, is given to another, on another node where
there is one, `TRIES` times at most; each time is told, and what failed for good is named in the end. Nodes that join
get workers, and workers that died are started again as long as their node gets anything done.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iccld_cli.errors import IccldError
from iccld_cli.fleet.cluster import Cluster, Node, ray_reason
from iccld_cli.fleet.work import PARTS, Fleet, PartsFailedError, Work
from iccld_cli.fleet.worker import Worker
from iccld_cli.parts import Part, listed

TRIES = 3
"""How often a part is begun, at most, not counting nodes that went away with it."""

MOVES = 20
"""How many nodes may go away with a part: machines that are lent by the hour do."""

_PAUSES = (1.0, 4.0)
"""Seconds before the second try of a part and the third: what hindered it, such as a lock, may go away."""

_POLL = 0.1
_ASK = 0.5
"""Seconds between two questions of how far a worker is."""

_LOOK = 5.0
"""Seconds between two looks at which nodes there are."""

_SETTLE = 2.0
"""Seconds that a cluster may take to notice that a node is gone whose workers have ended with it."""

_PATIENCE = 30.0
"""Seconds after which a worker that does not start is mentioned."""

_GOODBYE = 10.0
"""Seconds that workers have to remove what they left on disk."""

Tell = Callable[[str], None]


@dataclass
class Progress:
    """How far a whole work is.

    Attributes:
        done: Units that are done.
        units: Units in all, as far as that is known.
        parts: Parts that are done.
        of: All parts.
        workers: Workers that are ready.
    """

    done: int
    units: int
    parts: int
    of: int
    workers: int


@dataclass
class _Hand:
    """A worker as the engine sees it."""

    actor: Any
    node: Node
    pending: Any  # what it was asked for last
    part: Part | None = None
    ready: bool = False
    since: float = field(default_factory=time.monotonic)
    mentioned: bool = False
    asked: Any = None  # how far it is
    heard: float = 0.0
    progress: tuple[int, int] = (0, 0)


def usable_nodes(nodes: Iterable[Node], device: str | None) -> list[Node]:
    """The nodes that take part.

    Args:
        nodes: All.
        device: `--device`; None for work that needs none. With `auto`, nodes with GPUs alone where there are some: a
            GPU's results are not a processor's to the last bit.

    Raises:
        IccldError: There are none.
    """
    found = [node for node in nodes if node.cpus > 0]
    wants = device is not None and (device.startswith("cuda") or (device == "auto" and any(n.gpus for n in found)))
    if wants:
        found = [node for node in found if node.gpus > 0]
    if not found:
        what = "with a GPU" if wants else "with processors for Ray"
        raise IccldError(f"the cluster has no node {what}", "see `ray status`, or choose another --device")
    return found


def slots(node: Node, device: str | None, cpus: int | None) -> tuple[int, int, int]:
    """(workers, processors of each, GPUs of each) of a node."""
    gpus = node.gpus if device is not None and device != "cpu" else 0
    count = gpus or max(1, node.cpus // cpus if cpus else 1)
    return count, cpus or max(1, node.cpus // count), 1 if gpus else 0


def workers_of(nodes: Iterable[Node], device: str | None, fleet: Fleet) -> int:
    """How many workers there will be."""
    return sum(slots(node, device, fleet.cpus)[0] for node in nodes)


def parts_for(fleet: Fleet, workers: int, begun: int | None, where: str, most: int | None = None) -> int:
    """In how many parts a work is cut.

    Args:
        fleet: What is asked for.
        workers: How many there are.
        begun: Of how many parts an unfinished run was.
        where: Where its parts lie.
        most: More make no sense.

    Raises:
        IccldError: The unfinished run had another number than is asked for.
    """
    if begun is not None:
        if fleet.parts not in (None, begun):
            raise IccldError(
                f"{where} holds parts of {begun}, not of {fleet.parts}",
                "leave --parts out to go on with them, give another --out, or remove them",
            )
        return begun
    return fleet.parts or max(1, min(PARTS * workers, most or PARTS * workers))


def run_parts(
    cluster: Cluster,
    work: Work,
    parts: Sequence[Part],
    *,
    fleet: Fleet,
    packages: Sequence[str],
    device: str | None = None,
    weights: Mapping[Part, int] | None = None,
    folder: str | None = None,
    expected: Mapping[str, Any] | None = None,
    final: Collection[type[Exception]] = (),
    progress: Callable[[Progress], None] = lambda found: None,
    tell: Tell = lambda line: None,
) -> None:
    """Make all parts.

    Args:
        cluster: Where.
        work: What.
        parts: Which parts there are to be.
        fleet: Which machines.
        packages: Distributions whose versions must be those of this process.
        device: `--device` of models; None for work without one.
        weights: About how many units parts have, for the progress.
        folder: Folder that relative paths count from, None where there are none.
        expected: What `Work.open` must find on every node, by its name.
        final: Errors that another try does not mend.
        progress: Called a few times a second.
        tell: Called with a line when something goes wrong that can be mended.

    Raises:
        PartsFailedError: Some parts could not be made, the others are.
        IccldError: A node has other versions or another model than the others; or no worker is left.
    """
    run = _Run(
        cluster,
        work,
        parts,
        fleet,
        packages,
        device,
        weights or {},
        folder,
        expected or {},
        tuple(final),
        progress,
        tell,
    )
    try:
        run.start()
        while run.left:
            run.step()
        run.say_goodbye()
    finally:
        run.end()
    if run.failed:
        raise PartsFailedError(run.failed)


class _Run:
    def __init__(
        self,
        cluster: Cluster,
        work: Work,
        parts: Sequence[Part],
        fleet: Fleet,
        packages: Sequence[str],
        device: str | None,
        weights: Mapping[Part, int],
        folder: str | None,
        expected: Mapping[str, Any],
        final: tuple[type[Exception], ...],
        progress: Callable[[Progress], None],
        tell: Tell,
    ) -> None:
        self.cluster, self.ray, self.fleet, self.device = cluster, cluster.ray, fleet, device
        self.packages, self.folder, self.final = packages, folder, final
        self.progress, self.tell = progress, tell
        self.parts, self.weights = list(parts), dict(weights)
        self.waiting = deque(parts)
        self.done: dict[Part, int] = {}
        self.failed: dict[Part, Exception] = {}
        self.tries: dict[Part, list[str]] = {}  # keys of the nodes that a part failed on
        self.moves: dict[Part, int] = {}  # nodes that went away with a part
        self.due: dict[Part, float] = {}  # when a part may be tried again
        self.hands: list[_Hand] = []
        self.known: dict[str, Node] = {}
        self.first: set[str] = set()  # keys of the nodes that were there from the beginning and have not begun yet
        self.refused: set[str] = set()
        self.barren: dict[str, int] = {}  # deaths on a node since it last got a part done
        self.facts = expected
        self.looked = 0.0
        self.work = self.ray.put(work)

    @property
    def left(self) -> int:
        """How many parts are neither made nor given up."""
        return len(self.parts) - len(self.done) - len(self.failed)

    def start(self) -> None:
        """Ask all nodes for their versions, and start workers."""
        nodes = usable_nodes(self.cluster.nodes(), self.device)
        if differing := self.cluster.differing(nodes, self.packages):
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise IccldError(f"{differing[0]}{more}", "install the same versions on all nodes; nothing was begun")
        self.first = {node.key for node in nodes}
        for node in nodes:
            self._join(node)
        self.looked = time.monotonic()

    def step(self) -> None:
        """Hand out what waits, hear what workers have to say."""
        self._hand_out()
        self._look()
        pending = [hand.pending for hand in self.hands if hand.pending is not None]
        if not pending:
            time.sleep(_POLL)
        ready, _ = self.ray.wait(pending, num_returns=1, timeout=_POLL) if pending else ([], [])
        for hand in [hand for hand in self.hands if any(hand.pending == one for one in ready)]:
            self._hear(hand)
        self._ask()
        self._report()

    def say_goodbye(self) -> None:
        """Let workers remove what they have on their disks."""
        gone = [hand.actor.close.remote() for hand in self.hands if hand.ready and hand.part is None]
        if gone:
            self.ray.wait(gone, num_returns=len(gone), timeout=_GOODBYE)

    def end(self) -> None:
        """End all workers."""
        for hand in self.hands:
            with contextlib.suppress(Exception):
                self.ray.kill(hand.actor)

    def _join(self, node: Node) -> None:
        self.known[node.key] = node
        for _ in range(slots(node, self.device, self.fleet.cpus)[0]):
            self._employ(node)

    def _employ(self, node: Node) -> None:
        _, cpus, gpus = slots(node, self.device, self.fleet.cpus)
        actor = (
            self.ray.remote(Worker)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_concurrency=2,  # a part, and how far it is
                max_restarts=0,  # a new worker is this module's to start, so that it can say why
                scheduling_strategy=self.cluster.on(node),
            )
            .remote(self.work, cpus, gpus, self.folder)
        )
        self.hands.append(_Hand(actor, node, actor.open.remote()))

    def _hand_out(self) -> None:
        for hand in self.hands:
            if not self.waiting:
                return
            if hand.pending is None and hand.ready:
                part = self._next(hand.node)
                if part is None:
                    return
                self.waiting.remove(part)
                hand.part, hand.progress = part, (0, self.weights.get(part, 0))
                hand.pending = hand.actor.do.remote(part)

    def _next(self, node: Node) -> Part | None:
        """The first part that may be begun and did not fail on this node, else the first that may be begun."""
        now = time.monotonic()
        due = [part for part in self.waiting if self.due.get(part, 0.0) <= now]
        fresh = (part for part in due if node.key not in self.tries.get(part, ()))
        return next(fresh, due[0] if due else None)

    def _hear(self, hand: _Hand) -> None:
        """Take what a worker answered."""
        answer, hand.pending = hand.pending, None
        try:
            found = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self._bury(hand, ray_reason(error))
            return
        if not hand.ready:
            self._welcome(hand, found)
            return
        part, hand.part = hand.part, None
        assert part is not None
        if "units" in found:
            self.done[part] = self.weights[part] = found["units"]
            self.barren[hand.node.key] = 0
            return
        self._lost(part, hand.node, found["error"])
        if found.get("broken"):
            self._dismiss(hand)
            self._again(hand.node)

    def _welcome(self, hand: _Hand, found: Mapping[str, Any]) -> None:
        """Compare a worker that has loaded all with the others."""
        if "error" in found:
            self._refuse(hand, found["error"])
            return
        if not self.facts.keys() >= found["facts"].keys():  # the first one
            self.facts = {**found["facts"], **self.facts}
        mine = {name: value for name, value in found["facts"].items() if self.facts.get(name) != value}
        if mine:
            words = ", ".join(f"{name} {value}, not {self.facts.get(name)}" for name, value in mine.items())
            self._refuse(hand, IccldError(f"it has {words}", "give all nodes the same files and devices"))
            return
        hand.ready = True
        self.first.discard(hand.node.key)

    def _refuse(self, hand: _Hand, error: Exception) -> None:
        """Do without a node that cannot do the work; one of those that were there from the beginning ends it."""
        message, hint = (error.message, error.hint) if isinstance(error, IccldError) else (str(error), None)
        told = IccldError(f"node {hand.node.name}: {message}", hint)
        if hand.node.key in self.first:
            raise told
        self.tell(f"warning: {told}; it is left out")
        self.refused.add(hand.node.key)
        self._dismiss(hand)

    def _bury(self, hand: _Hand, reason: str) -> None:
        """A worker is dead."""
        self.hands.remove(hand)
        left = self._has_left(hand.node)
        if left:
            reason = "its node left the cluster"
        if hand.part is not None:
            self._lost(hand.part, hand.node, IccldError(f"its worker is gone: {reason}"), left)
        else:
            self.tell(f"warning: a worker on node {hand.node.name} is gone: {reason}")
        if left:
            self.known.pop(hand.node.key, None)
        else:
            self._again(hand.node)

    def _has_left(self, node: Node) -> bool:
        """Whether a node on which a worker ended is gone itself."""
        until = time.monotonic() + _SETTLE
        while any(other.key == node.key for other in self.cluster.nodes()):
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL)
        return True

    def _again(self, node: Node) -> None:
        """Start another worker in place of one that ended, unless they all end before they get anything done."""
        self.barren[node.key] = self.barren.get(node.key, 0) + 1
        if self.barren[node.key] < TRIES * slots(node, self.device, self.fleet.cpus)[0]:
            self._employ(node)
            return
        self.refused.add(node.key)
        self.tell(f"warning: node {node.name} is left out, {self.barren[node.key]} workers ended on it")

    def _dismiss(self, hand: _Hand) -> None:
        self.hands.remove(hand)
        with contextlib.suppress(Exception):
            self.ray.kill(hand.actor)

    def _lost(self, part: Part, node: Node, error: Exception, left: bool = False) -> None:
        """A part was not made, as its node left or for another reason; say so, and try again or give up."""
        places = self.tries.setdefault(part, [])
        if left:
            self.moves[part] = self.moves.get(part, 0) + 1
        else:
            places.append(node.key)
            self.due[part] = time.monotonic() + _PAUSES[min(len(places), len(_PAUSES)) - 1]
        if len(places) >= TRIES or self.moves.get(part, 0) > MOVES or isinstance(error, self.final):
            self.failed[part] = error
            if not self.done and len(self.failed) >= len(self.hands):
                self.failed |= dict.fromkeys([*self.waiting], error)  # all of them fail, and go on failing
                self.waiting.clear()
            return
        self.tell(f"warning: part {part} on node {node.name}: {error}; it is tried again")
        self.waiting.append(part)

    def _look(self) -> None:
        """See which nodes have joined, and whether any is left."""
        now = time.monotonic()
        for hand in self.hands:
            if not hand.ready and not hand.mentioned and now - hand.since > _PATIENCE:
                hand.mentioned = True
                cpus = slots(hand.node, self.device, self.fleet.cpus)[1]
                need = f"{cpus} free processor{'s' * (cpus != 1)}"
                self.tell(f"still waiting for a worker on node {hand.node.name}, which needs {need}")
        if now - self.looked < _LOOK and self.hands:
            return
        self.looked = now
        found = [node for node in self.cluster.nodes() if node.key not in self.known and node.key not in self.refused]
        with contextlib.suppress(IccldError):  # of other kinds than this work needs
            for node in usable_nodes(found, self._kind()):
                if differing := self.cluster.differing([node], self.packages):
                    self.refused.add(node.key)
                    self.tell(f"warning: {differing[0]}; it is left out")
                else:
                    self._join(node)
        if not self.hands:
            numbers = sorted(part.number for part in self.parts if part not in self.done)
            raise IccldError(
                f"no node of the cluster is left to work on; parts {listed(numbers)} are not done",
                "when there are nodes again, the same command goes on",
            )

    def _kind(self) -> str | None:
        """The device that nodes that join must have: that of the others."""
        gpus = any(slots(node, self.device, None)[2] for node in self.known.values())
        return self.device if self.device is None else "cuda" if gpus else "cpu"

    def _ask(self) -> None:
        """Ask workers how far they are, and take the answers that have come."""
        for hand in self.hands:
            if hand.asked is not None:
                ready, _ = self.ray.wait([hand.asked], timeout=0)
                if not ready:
                    continue
                asked, hand.asked = hand.asked, None
                try:
                    found = self.ray.get(asked)
                except self.ray.exceptions.RayError:
                    continue  # what it was asked to do fails as well
                for line in found["lines"]:
                    self.tell(f"node {hand.node.name}: {line}")
                if hand.part is not None and found["progress"][1]:
                    hand.progress = found["progress"]
            if time.monotonic() - hand.heard >= _ASK:
                hand.heard = time.monotonic()
                hand.asked = hand.actor.state.remote()

    def _report(self) -> None:
        known = [weight for weight in self.weights.values() if weight]
        usual = sum(known) // len(known) if known else 0  # of parts of which nothing is known yet
        under_way = {hand.part: hand.progress for hand in self.hands if hand.part is not None}
        done = sum(self.done.values()) + sum(units for units, _ in under_way.values())
        units = sum(under_way[part][1] if part in under_way else self.weights.get(part, usual) for part in self.parts)
        ready = sum(hand.ready for hand in self.hands)
        self.progress(Progress(done, max(units, done), len(self.done), len(self.parts), ready))
