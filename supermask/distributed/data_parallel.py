"""Data parallel: one training spread over the ranks, the processes that `torchrun` started.

Every rank holds the whole network and trains on its rows of every batch. `DistributedDataParallel` averages
the gradients, so that all ranks make the same step, to the same masks, bit for bit; this is checked while
they train. What a search draws follows from its seed and the step, never from the rank. Only what torch's
own generator draws (dropout) differs from rank to rank.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.distributed.consistency import assert_same, checksum, of_search
from supermask.distributed.process_group import Ranks
from supermask.distributed.sync_batchnorm import is_synced
from supermask.search.base import Search
from supermask.weights.init import derive_key
from supermask.weights.names import unwrap


@dataclass(frozen=True)
class BatchShard:
    """The part of every batch that a rank trains on; by default all of it.

    A batch that does not divide by the ranks is split unevenly, and its losses are weighted so that their
    mean over ranks is the mean over the batch.

    Attributes:
        ranks: All of them.
        rows: Which rows of a batch are this rank's.
        weight: Factor of this rank's mean loss: its number of rows over the mean number per rank.
    """

    ranks: Ranks = field(default_factory=Ranks)
    rows: slice = field(default_factory=lambda: slice(None))
    weight: float = 1.0

    @classmethod
    def of(cls, batch_size: int, ranks: Ranks | None = None) -> "BatchShard":
        """This rank's share of batches of `batch_size`.

        Args:
            batch_size: Rows of the whole batch of a step.
            ranks: None takes the process group that is there.

        Raises:
            ValueError: A batch has fewer rows than there are ranks.
        """
        if ranks is None:
            there = dist.is_available() and dist.is_initialized()
            ranks = Ranks(dist.get_rank(), dist.get_world_size()) if there else Ranks()
        if batch_size < ranks.size:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared by {ranks.size} ranks; take larger batches "
                "(--batch-size is that of all ranks together) or start fewer processes"
            )
        first, last = (batch_size * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
        return cls(ranks, slice(first, last), (last - first) * ranks.size / batch_size)

    def take(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """This rank's rows of a whole batch."""
        return batch[0][self.rows], batch[1][self.rows]

    def weigh(self, loss: Tensor) -> Tensor:
        """The loss to run backward from, given the mean over this rank's rows."""
        return loss if self.weight == 1 else loss * self.weight

    def mean(self, value: Tensor) -> float:
        """The mean over ranks."""
        return float(self.ranks.sum(value)) / self.ranks.size

    def statistics(self, model: nn.Module) -> Callable[[], None]:
        """A function to call after every step: it makes the running statistics of norms the same everywhere.

        They become the mean over ranks, weighted by rows: what one rank would estimate from all batches,
        but for the variance between the means of the ranks' rows. Further buffers become those of rank 0.
        """
        if self.ranks.size == 1:
            return lambda: None
        means, others = _buffers(model)

        def average(flat: Tensor) -> None:
            dist.all_reduce(flat.mul_(self.weight / self.ranks.size))

        def synchronize() -> None:
            for group in means.values():
                _together(group, average)
            for group in others.values():
                _together(group, lambda flat: dist.broadcast(flat, src=0))

        return synchronize

    def check(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        """Refuse to go on from ranks that differ, in parameters, buffers, scores or masks.

        Raises:
            RanksDifferError: They do; the message names what and where.
        """
        if self.ranks.size > 1:
            inner = unwrap(model)
            tensors = of_search(optimizer) if isinstance(optimizer, Search) else {}
            for name, tensor in (*inner.named_parameters(), *inner.named_buffers()):
                tensors[f"values of {name}"] = tensor
            assert_same(tensors, step)

    def others(self, loss_sum: float, device: torch.device) -> list[dict[str, Any]]:
        """What a checkpoint keeps of the ranks from 1 on; empty but on rank 0."""
        return self.ranks.gather({"loss_sum": loss_sum, **generators(device)})[1:]

    def restore(self, saved: dict[str, Any], loss_sum: float, device: torch.device) -> float:
        """Bring torch's generators to where a checkpoint has them; returns this rank's sum of losses.

        Saved by as many ranks, each gets its own back. Otherwise rank 0 gets its own, the others new ones
        that follow from it, and each the mean of the sums.

        Args:
            saved: The checkpoint: what `generators` gave on rank 0, and `others`.
            loss_sum: That of rank 0.
            device: Where this rank trains.
        """
        others = saved["others"]
        if len(others) + 1 == self.ranks.size:
            if self.ranks.main:
                _set_generators(saved, device)
                return loss_sum
            own = others[self.ranks.rank - 1]
            _set_generators(own, device)
            return float(own["loss_sum"])
        if self.ranks.main:
            _set_generators(saved, device)
        else:
            state = int(checksum(saved["rng"])) % (1 << 63)
            torch.manual_seed(derive_key(f"rank/{self.ranks.size}", state, str(self.ranks.rank)))
        return (loss_sum + sum(entry["loss_sum"] for entry in others)) / (len(others) + 1)


class Clock(Protocol):
    """Of something that is due from time to time.

    Attributes:
        seconds: Time between two events.
        elapsed: Time since the last one.
    """

    seconds: float

    @property
    def elapsed(self) -> float: ...


class SyncedTimer:
    """Lets all ranks do at the same step what is due by the clock of rank 0.

    They do not ask at every step: rank 0 says from the time per step when it will be worth asking again.

    Args:
        ranks: Those who ask.
        step: Steps done so far.
    """

    def __init__(self, ranks: Ranks, step: int) -> None:
        self._ranks, self._start, self._next = ranks, step, step + 1
        self._began = time.monotonic()

    def due(self, step: int, clock: Clock) -> bool:
        """Whether it is due after `step` steps."""
        if self._ranks.size == 1:
            return clock.elapsed >= clock.seconds
        if step < self._next:
            return False

        def decide() -> tuple[bool, int]:
            left = clock.seconds - clock.elapsed
            per_step = max(time.monotonic() - self._began, 1e-9) / (step - self._start)
            return left <= 0, max(1, int((left if left > 0 else clock.seconds) / per_step))

        due, wait = self._ranks.from_main(decide)
        self._next = step + wait
        return due


Groups = dict[torch.dtype, list[Tensor]]


def _buffers(model: nn.Module) -> tuple[Groups, Groups]:
    """Running statistics that each rank estimates from its own rows, and further floats, by dtype."""
    means: Groups = {}
    others: Groups = {}
    for module in unwrap(model).modules():
        own_rows = getattr(module, "track_running_stats", False) and not is_synced(module)
        for name, buffer in module.named_buffers(recurse=False):
            if own_rows and name in ("running_mean", "running_var"):
                means.setdefault(buffer.dtype, []).append(buffer)
            elif buffer.is_floating_point() and not is_synced(module):
                others.setdefault(buffer.dtype, []).append(buffer)
    return means, others


@torch.no_grad()
def _together(tensors: list[Tensor], change: Callable[[Tensor], object]) -> None:
    """Change tensors of one dtype in place, laid out as a single one."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    change(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])


def generators(device: torch.device) -> dict[str, Any]:
    """The states of torch's generators that a training on `device` draws from."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda}


def _set_generators(saved: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(saved["rng"])
    if saved["cuda_rng"] and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda_rng"][0], device)
