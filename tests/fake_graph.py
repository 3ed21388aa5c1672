"""A CUDA graph for the CPU: it records the operators of a call with their tensors, and repeats those alone.

As with a real one, Python runs once, at the capture; numbers are those of the capture; tensors are known by
their memory; the capture itself changes nothing; and what waits for the device is an error.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select}
QUIETLY_CHANGED = {aten.native_batch_norm: (3, 4)}
"""Operators whose schemas do not say what they write to, and the places of those arguments."""


class Tape(TorchDispatchMode):
    """Runs every operator, and notes it with aliases of its tensors and copies of what it overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.overwritten: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in WAITS:
            raise RuntimeError(f"{func} is not permitted when a stream is capturing")
        args, kwargs = tree_map_only(Tensor, _alias, (args, kwargs or {}))
        for tensor in _written(func, args, kwargs):
            key = tensor.untyped_storage().data_ptr()
            self.overwritten.setdefault(key, (tensor, tensor.clone()))
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, [_alias(t) for t in _tensors(result)]))
        return result


class FakeRecorder:
    """Takes the place of `CudaRecorder`."""

    def __init__(self) -> None:
        self.tape = Tape()
        self.asides = self.captures = self.replays = 0

    def aside(self, call: Callable[[], Tensor]) -> Tensor:
        self.asides += 1
        return call()

    def capture(self, call: Callable[[], Tensor]) -> Tensor:
        self.captures += 1
        generator = torch.get_rng_state()
        try:
            with self.tape:
                return call()
        finally:
            torch.set_rng_state(generator)
            for tensor, before in self.tape.overwritten.values():
                tensor.copy_(before)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, results in self.tape.calls:
                for old, new in zip(results, _tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _alias(tensor: Tensor) -> Tensor:
    """The same memory, whatever its owner will point to later."""
    with torch.no_grad():
        return tensor.detach()


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    written = [args[place] for place in QUIETLY_CHANGED.get(func.overloadpacket, ())]
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(args[place] if place < len(args) else kwargs.get(argument.name))
    return _tensors(written)
