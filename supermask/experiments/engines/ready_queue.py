"""Which runs can start, and which of them first. Nothing here knows where they execute."""

from collections.abc import Iterable, Sequence

from supermask.experiments.spec import RunSpec


def in_order(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Distinct runs, each after those it needs.

    Raises:
        ValueError: A run needs one that is not in the graph, or itself.
    """
    waiting = {spec.id: spec for spec in specs}
    ordered: dict[str, RunSpec] = {}
    while waiting:
        ready = [spec for spec in waiting.values() if all(need in ordered for need in spec.needs)]
        if not ready:
            stuck = next(iter(waiting.values()))
            raise ValueError(f"run {stuck.id} needs {', '.join(stuck.needs)}, which the graph cannot deliver")
        for spec in ready:
            ordered[spec.id] = waiting.pop(spec.id)
    return list(ordered.values())


def chain_lengths(ordered: Sequence[RunSpec]) -> dict[str, int]:
    """Identifier → steps of the longest chain of runs that begins with the run.

    A grid cannot end before its longest chain has, such as the rounds of IMP. A run without steps counts as
    one step, so that a chain is always longer than its rest.
    """
    rest = {spec.id: 0 for spec in ordered}
    lengths: dict[str, int] = {}
    for spec in reversed(ordered):
        lengths[spec.id] = rest[spec.id] + max(spec.steps, 1)
        for need in spec.needs:
            rest[need] = max(rest[need], lengths[spec.id])
    return lengths


class ReadyQueue:
    """The runs of a graph that are still to be done.

    Those that begin the longest chain come first; among equals the order of the graph decides. The same graph
    gives the same order.

    Args:
        ordered: The runs, each after those it needs; see `in_order`.
        finished: Identifiers of runs that are done already.
    """

    def __init__(self, ordered: Sequence[RunSpec], finished: Iterable[str] = ()) -> None:
        self._finished = set(finished)
        lengths = chain_lengths(ordered)
        first = sorted(range(len(ordered)), key=lambda i: (-lengths[ordered[i].id], i))
        self._waiting = {ordered[i].id: ordered[i] for i in first if ordered[i].id not in self._finished}
        self._running: set[str] = set()

    @property
    def open(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._running)

    def ready(self) -> list[RunSpec]:
        """Runs that can start now, the most urgent first."""
        return [spec for spec in self._waiting.values() if self._finished.issuperset(spec.needs)]

    def waits(self, id: str) -> bool:
        """Whether a run has neither started nor been given up."""
        return id in self._waiting

    def start(self, specs: Iterable[RunSpec]) -> None:
        """These run now."""
        for spec in specs:
            del self._waiting[spec.id]
            self._running.add(spec.id)

    def finish(self, spec: RunSpec) -> None:
        """This is done; those that need it may become ready."""
        self._running.remove(spec.id)
        self._finished.add(spec.id)

    def drop(self, spec: RunSpec) -> list[RunSpec]:
        """Give up a running run; returns those that need it, directly or not, which are given up with it."""
        self._running.remove(spec.id)
        lost, dropped = {spec.id}, []
        # What a run needs stands before it: a chain is longer than its rest.
        for other in list(self._waiting.values()):
            if lost.intersection(other.needs):
                lost.add(other.id)
                dropped.append(self._waiting.pop(other.id))
        return dropped
