"""The processes that `torchrun` started: who they are, how they meet, and what they tell each other."""

import hashlib
import inspect
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from supermask.weights.init import derive_key

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: for rank 0 to read a data set or write a report, say."""
_FORWARD_SYNC = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the second in older torch
    if name in inspect.signature(nn.parallel.DistributedDataParallel).parameters
)
_LOST = (
    "connectFullMesh",
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "monitoredBarrier",
    "NCCL",
)


class RankLostError(RuntimeError):
    """Another rank ended, or did not answer in time."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, as one of them sees them; by default it is alone.

    Attributes:
        rank: Number of this one, from 0 on. Rank 0, the main one, alone writes files.
        size: How many there are.
        local_rank: Number among those of this machine.
        local_size: How many this machine has.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, which alone calls it; the others wait for it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.main else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on rank 0; elsewhere nothing."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.main else None
        dist.gather_object(value, found, dst=0)
        return found or []

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the tensors the values that they have on rank 0, in place."""
        if self.size > 1:
            for tensor in tensors.values():
                ready = tensor.detach().contiguous()
                dist.broadcast(ready.view(torch.uint8) if ready.dtype == torch.bool else ready, src=0)
                if ready.data_ptr() != tensor.data_ptr():
                    tensor.detach().copy_(ready)

    @contextmanager
    def one_per_machine_first(self) -> Iterator[None]:
        """Inside this context the first rank of each machine goes ahead, to fill a cache, say."""
        # A sum on the CPU waits for all; NCCL's barrier would ask for a device.
        if self.local_rank > 0:
            self.sum(torch.zeros(1))
        yield
        if self.local_rank == 0:
            self.sum(torch.zeros(1))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model in `DistributedDataParallel`; itself where there is one rank.

        All ranks get the parameters and buffers of rank 0. Running statistics are left to `BatchShard`.
        """
        if self.size == 1:
            return model
        self.agree(dict(model.named_buffers()))
        device = next(model.parameters()).device
        ids = None if device.type == "cpu" else [device]
        # Without it DDP lays its buckets out anew after the first step, so that a training that goes on from
        # a checkpoint would add the gradients of three ranks in another order, to other last bits.
        options = {_FORWARD_SYNC: False, "find_unused_parameters": True}
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, **options)  # type: ignore[arg-type]

    def seed_generator(self, seed: int) -> None:
        """Part the ranks' own draws (dropout); rank 0 goes on as a process alone would."""
        if self.rank > 0:
            torch.manual_seed(derive_key("rank", seed, str(self.rank)))


def launched() -> bool:
    """Whether torchrun, or what sets the same environment, started this process as one of several."""
    named = all(name in os.environ for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    return named and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Number of this process among those that torchrun started; 0 without it."""
    return int(os.environ["RANK"]) if launched() else 0


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Inside this context the ranks that torchrun started are connected; without torchrun there is one.

    GPUs talk through NCCL, all else, and ranks that have to share a GPU, through gloo.

    Args:
        device: Where this rank computes, as `own_device` gives it.

    Raises:
        RankLostError: Another rank ended, or did not answer in time.
    """
    if not launched():
        yield Ranks()
        return
    local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    ranks = Ranks(rank(), int(os.environ["WORLD_SIZE"]), *local)
    if dist.is_initialized():
        yield ranks
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    nccl = on_gpu and ranks.local_size <= torch.cuda.device_count()
    backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
    try:
        store = meet(next(dist.rendezvous("env://", timeout=TIMEOUT))[0], ranks.rank, ranks.size)
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT)
        yield ranks
    except RuntimeError as error:
        # The group is left as it is: to end it would wait for the ranks that are gone.
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST):
            reason = str(error).splitlines()[0]
            raise RankLostError(
                f"rank {ranks.rank} of {ranks.size} lost contact with another, which ended or hangs (its own "
                f"message is above, or in torchrun's list of failures): {reason}. The same command goes on "
                "from the last checkpoint; torchrun --max-restarts N does so by itself"
            ) from error
        raise
    dist.destroy_process_group()


def meet(store: dist.Store, rank: int, size: int) -> dist.Store:
    """The part of a store that belongs to the ranks of this start alone.

    When torchrun starts ranks again it keeps its store, with the addresses that those before left there. So
    all write a name that is new, until each has read the same list of them.

    Raises:
        RankLostError: Not all came in time.
    """
    store.set(f"supermask/start/{rank}", uuid.uuid4().hex)
    patience = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < patience:
        starts = [store.get(f"supermask/start/{other}") for other in range(size)]
        name = hashlib.sha256(b"".join(starts)).hexdigest()
        store.set(f"supermask/name/{rank}", name)
        if all(store.get(f"supermask/name/{other}") == name.encode() for other in range(size)):
            return dist.PrefixStore(f"supermask/{name}", store)
        time.sleep(0.05)
    raise RankLostError(f"rank {rank} waited {TIMEOUT} for the other {size - 1} ranks to start")


def own_device(device: str) -> str:
    """The device of this rank: of several on one machine each takes the GPU of its local number.

    Raises:
        ValueError: `device` names one GPU for several ranks.
    """
    if not launched() or torch.device(device).type != "cuda":
        return device
    if torch.device(device).index is not None:
        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
            raise ValueError("each rank takes a GPU of its own, so give cuda without a number")
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(torch.cuda.device_count(), 1)}"
