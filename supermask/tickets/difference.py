"""Two tickets side by side: what their masks share, layer by layer, and what is recorded otherwise."""

from collections.abc import Mapping
from typing import Any

from supermask.tickets.ticket import Ticket


def difference(ours: Ticket, theirs: Ticket) -> dict[str, Any]:
    """How two tickets differ, as JSON-able facts.

    Returns:
        `equal`: whether they give the same network (`Ticket.__eq__`). `layers`: for each masked layer of both
        with one shape, what each keeps, what both keep, the overlap (kept by both over kept by either, the
        Jaccard index), and the overlap of large independent random masks of these densities p and q, which is
        p q / (p + q - p q). `only_here`, `only_there`: layers of one of the two, or of other shapes. `facts`:
        recorded value → the two values, where they differ.
    """
    a, b = ours.mask(), theirs.mask()
    common = [name for name in a if name in b and a[name].shape == b[name].shape]
    layers = []
    for name in common:
        kept, others, both = int(a[name].sum()), int(b[name].sum()), int((a[name] & b[name]).sum())
        numel = max(a[name].numel(), 1)
        layers.append(
            {"name": name, "kept": [kept, others], "both": both, **_overlap(kept, others, both, numel)}
        )
    return {
        "equal": ours == theirs,
        "layers": layers,
        "only_here": [name for name in a if name not in common],
        "only_there": [name for name in b if name not in common],
        "facts": _differing(_facts(ours), _facts(theirs)),
    }


def _overlap(kept: int, others: int, both: int, numel: int) -> dict[str, float]:
    p, q = kept / numel, others / numel
    either = kept + others - both
    return {
        "overlap": both / either if either else 1.0,
        "by_chance": p * q / (p + q - p * q) if either else 1.0,
    }


def _facts(ticket: Ticket) -> dict[str, Any]:
    """What a ticket is and records, flat: keys of nested objects joined by dots."""
    info = ticket.info()
    kept = {key: info[key] for key in ("kind", "density", "init", "seed", "parameters")}
    return kept | _flat("network", info["factory"]) | _flat("", info["provenance"])


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(f"{prefix}.{key}".lstrip("."), item)
    return flat


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*ours, *theirs])
    return {name: [ours.get(name), theirs.get(name)] for name in names if ours.get(name) != theirs.get(name)}
