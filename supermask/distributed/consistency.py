"""Do the ranks that train together still hold the same bits? Asked at low cost, answered by name."""

from collections import Counter
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from supermask.search.base import Search

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 20
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)


class RanksDifferError(RuntimeError):
    """The ranks of one training do not hold the same bits any more."""


def assert_same_masks(search: Search, step: int | None = None) -> None:
    """Refuse to go on from ranks whose masks or scores differ in a bit. All ranks must call it.

    It reads scores and masks once and exchanges eight bytes for each: a few times per epoch is cheap. With
    one process, or without a process group, there is nothing to compare.

    Args:
        search: This rank's search.
        step: Named in the message.

    Raises:
        RanksDifferError: They differ; the message names parameter and ranks.
    """
    assert_same(of_search(search), step)


def assert_same(tensors: Mapping[str, Tensor], step: int | None = None) -> None:
    """Refuse to go on from ranks whose tensors differ in a bit; see `assert_same_masks`.

    Args:
        tensors: What it is, in words → tensor; the same names in the same order on all ranks.
        step: Named in the message.

    Raises:
        RanksDifferError: They differ.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1 or not tensors:
        return
    device = next(iter(tensors.values())).device
    own = torch.stack([checksum(tensor).to(device) for tensor in tensors.values()])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    sums = torch.stack(gathered).cpu()
    different = (sums != sums[0]).any(dim=0).nonzero().flatten().tolist()
    if not different:
        return
    column = sums[:, different[0]].tolist()
    usual = Counter(column).most_common(1)[0][0]  # of equally common ones the first, that of rank 0
    odd = ", ".join(str(rank) for rank, value in enumerate(column) if value != usual)
    more = f", and {len(different) - 1} further tensors differ" if len(different) > 1 else ""
    when = "" if step is None else f" at step {step}"
    raise RanksDifferError(
        f"the {list(tensors)[different[0]]} on rank {odd} differ from those of the other ranks{when}{more}. "
        "Something that acts on one rank alone changed them (code of one's own, another version or machine, "
        "damaged memory); go on from the last checkpoint, which was compared before it was written"
    )


def checksum(tensor: Tensor) -> Tensor:
    """An int64 scalar on the tensor's device, in which every single bit and its place counts.

    The sum of the elements' bit patterns, each times an odd number of its own, modulo 2^64.
    """
    flat = tensor.detach().contiguous().flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    bits = flat.view(_BITS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in bits.split(_CHUNK):
        places = torch.arange(1, 2 * len(chunk), 2, device=tensor.device)
        total = total * _ODD + (chunk.long() * places).sum()
    return total


def of_search(search: Search) -> dict[str, Tensor]:
    """What the ranks of a search must have in common, by what it is."""
    masks = {f"masks of {name}": mask for name, mask in search.mask.items()}
    return masks | {f"scores of {name}": score for name, score in search.scores.items()}
