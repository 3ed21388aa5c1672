"""In which precision a network computes while it trains.

`pure-bf16` is bfloat16 autocast without its casts: during training the weights of linear and convolution
layers *are* bfloat16, and so are their gradients, while whatever learns stays in float32. A search keeps
float32 scores and frozen weights and writes W ⊙ M rounded; an optimizer of weights steps on float32 masters,
of which the model gets a rounded copy. Autocast rounds the same numbers in the same places, so the training
has the same bits, with two exceptions: the gradients of a weight that is used twice in a step are added, and
those of a search are clipped, in bfloat16.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from supermask.search import Search
from supermask.weights.names import data_parallel, unwrap

PURE = "pure-bf16"
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16, PURE: torch.bfloat16}


def check_amp(amp: str) -> str:
    """`amp` itself, or ValueError unless it is one of `AMP_DTYPES`."""
    if amp not in AMP_DTYPES:
        raise ValueError(f"amp must be one of {', '.join(AMP_DTYPES)}, not {amp!r}")
    return amp


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """The context in which a network of this `amp` computes on `device`."""
    dtype = AMP_DTYPES[check_amp(amp)]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class Bf16Weights:
    """While it is entered, the model holds bfloat16 weights and `optimizer` moves float32 ones.

    Lowered are the float32 parameters of linear, convolution and attention projection layers, which autocast
    would cast in every step. After it the model is float32 again, with all the bits of what was learned.

    Args:
        model: The network, float32; compiled wrappers are looked through.
        optimizer: A search over it, or any `torch.optim` optimizer of its parameters.

    Raises:
        ValueError: The model is wrapped in DDP, which has fixed the types of its gradients.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        if data_parallel(model):
            raise ValueError(
                f"amp {PURE} changes the types of parameters between steps, and DDP holds on to the first; "
                "take amp bf16, which rounds alike and costs casts"
            )
        self.model = unwrap(model)
        self.search = optimizer if isinstance(optimizer, Search) else None
        written = {id(p) for p in self.search.masked_parameters.values()} if self.search else set()
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]} - written
        if moved and not written and moved.isdisjoint(map(id, self.model.parameters())):
            raise ValueError(
                f"amp {PURE}: {type(optimizer).__name__} moves no parameter of this model (searches together "
                "write theirs through views); take amp bf16"
            )
        lowered = _cast_by_autocast(self.model)
        self._written = [p for p in lowered if id(p) in written]
        self._moved = [p for p in lowered if id(p) in moved]
        self._frozen = [p for p in lowered if id(p) not in written | moved]
        self._masters: list[Tensor] = []
        self._originals: list[Tensor] = []
        self._rounded: list[Tensor] = []

    def __enter__(self) -> Self:
        self._masters = [p.data for p in self._moved]
        self._originals = [p.data for p in self._frozen]
        everything = [*self._moved, *self._frozen, *self._written]
        self._rounded = [p.data.to(torch.bfloat16) for p in everything]
        _put(everything, self._rounded)
        _LOWERED[self.model] = self
        return self

    def __exit__(self, *_: object) -> None:
        del _LOWERED[self.model]
        self._raise()

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Inside this context, where the optimizer steps, what it moves is float32, gradients too."""
        gradients = [p.grad for p in self._moved]
        _put(self._moved, self._masters)
        for parameter, gradient in zip(self._moved, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.to(torch.float32)
        try:
            yield
        finally:
            rounded = self._rounded[: len(self._moved)]
            if rounded:
                torch._foreach_copy_(rounded, self._masters)
            _put(self._moved, rounded)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Inside this context, between steps, the model is float32, as it will be after training."""
        self._raise()
        try:
            yield
        finally:
            _put([*self._moved, *self._frozen, *self._written], self._rounded)

    def _raise(self) -> None:
        _put([*self._moved, *self._frozen], [*self._masters, *self._originals])
        _put(self._written, [p.data.to(torch.float32) for p in self._written])
        if self.search is not None:
            self.search.write(self.search.mask)


_LOWERED: WeakKeyDictionary[nn.Module, Bf16Weights] = WeakKeyDictionary()


def in_float32(model: nn.Module) -> AbstractContextManager[None]:
    """The context in which `model` has its float32 weights, also in the middle of a `pure-bf16` training."""
    lowered = _LOWERED.get(unwrap(model))
    return nullcontext() if lowered is None else lowered.raised()


def _cast_by_autocast(model: nn.Module) -> list[nn.Parameter]:
    """The distinct float32 parameters of the layers that autocast computes in bfloat16."""
    layers = (nn.Linear, _ConvNd, nn.MultiheadAttention)
    found = {
        id(parameter): parameter
        for module in model.modules()
        if isinstance(module, layers)
        for parameter in module.parameters(recurse=False)
        if parameter.dtype == torch.float32
    }
    return list(found.values())


def _put(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    """Make parameters hold other tensors, of whatever type; they stay the same objects."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = None
        parameter.data = value
