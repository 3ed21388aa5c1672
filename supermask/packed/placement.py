"""Packed layers hold their weights as the device that they are on computes with them.

On a CPU these are the layouts of its kernels. A GPU has kernels for others, and the CPU's would fill its
memory for nothing: a layer that moves lays its weights out anew.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def is_on_gpu(tensor: Tensor) -> bool:
    """Whether `tensor` is where the layouts for a GPU serve."""
    return tensor.is_cuda


def check_weights(weights: Tensor, dimensions: int, signs: bool) -> None:
    """Refuse what a packed layer cannot hold.

    Raises:
        ValueError: Another number of dimensions, or another type than int8 of -1, 0 and +1 for signs and
            floats for other weights.
    """
    if weights.dim() != dimensions:
        raise ValueError(f"weights must have {dimensions} dimensions, not the shape {tuple(weights.shape)}")
    if signs and weights.dtype != torch.int8:
        raise ValueError(f"with a scale, weights must be int8 and -1, 0 or +1, not {weights.dtype}")
    if signs and bool((weights.abs() > 1).any()):
        low, high = (int(end) for end in weights.aminmax())
        raise ValueError(f"with a scale, weights must be -1, 0 or +1, but lie between {low} and {high}")
    if not signs and not weights.is_floating_point():
        raise ValueError(f"without a scale, weights must be floats, not {weights.dtype}")


class Placed(nn.Module):
    """A packed layer of which some buffers, `layout`, hold the weights.

    A state dict has the layout of the device that it was taken on, and loads into a layer on such a one: all
    of it or, with the error that `load_state_dict` raises, strict or not, nothing.
    """

    layout: tuple[str, ...] = ()
    of_any_length: tuple[str, ...] = ()
    """Those of the layout of which a state may hold more or less."""
    on_gpu = False
    signed: bool
    """Whether all weights are of one magnitude, so that signs are held and no values."""
    density: float
    activations: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of what the layer holds, weights and bias, as it lies on its device."""
        return sum(tensor.nbytes for tensor in (*self.buffers(), *self.parameters()))

    def held(self) -> str:
        """What `repr` says of the weights."""
        return (
            f"weights={'signs' if self.signed else 'values'}, density={self.density:.4g}, "
            f"activations={self.activations or 'as they come'}, bytes={self.nbytes}"
        )

    def unpacked(self) -> Tensor:
        """The weights as they were packed."""
        raise NotImplementedError

    def packed_for_cpu(self, weights: Tensor) -> dict[str, Tensor]:
        """The buffers that hold `weights` on a CPU, by name."""
        raise NotImplementedError

    def packed_for_gpu(self, weights: Tensor) -> dict[str, Tensor]:
        """The buffers that hold `weights` on a GPU, by name."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop whatever was made from the layout and is kept beside it."""

    def lay_out(self, weights: Tensor, on_gpu: bool | None = None) -> None:
        """Hold `weights` in the buffers for a GPU or for a CPU, by default for where they are."""
        on_gpu = is_on_gpu(weights) if on_gpu is None else on_gpu
        for name in self.layout:
            delattr(self, name)
        buffers = (self.packed_for_gpu if on_gpu else self.packed_for_cpu)(weights)
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.layout, self.on_gpu = tuple(buffers), on_gpu
        self.forget()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Laid out anew on the CPU, on whichever way: the GPU need not hold both.
        arrives = fn(torch.empty(0, device=self.get_buffer(self.layout[0]).device))
        if is_on_gpu(arrives) and not self.on_gpu:
            self.lay_out(self.unpacked(), on_gpu=True)
        super()._apply(fn, recurse)
        self.forget()
        if self.on_gpu and arrives.device.type == "cpu" and not is_on_gpu(arrives):
            self.lay_out(self.unpacked(), on_gpu=False)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *said: list[str]
    ) -> None:
        misfits = self._misfits(state_dict, prefix)
        if misfits:
            layer = prefix.removesuffix(".") or type(self).__name__
            said[-1].append(
                f"{layer} is loaded whole or not at all, but "
                f"{', '.join(misfits)}. Remedy: load it into a network packed with that state's ticket."
            )
            return
        for name in self.of_any_length:
            own, given = self._buffers.get(name), state_dict.get(prefix + name)
            if own is not None and given is not None and len(given) != len(own):
                self._buffers[name] = own.new_empty(len(given))
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *said)
        self.forget()

    def _misfits(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        """What keeps that part of `state_dict` which is this layer's from being loaded, if there is any."""
        own: dict[str, Any] = {}
        self._save_to_state_dict(own, prefix, keep_vars=True)
        given = {key: state_dict[key] for key in state_dict if key.startswith(prefix)}
        given = {key: value for key, value in given.items() if "." not in key.removeprefix(prefix)}
        if not given:
            return []
        found = [f"{key} is not in the state" for key in own.keys() - given.keys()]
        found += [f"{key} is in the state alone" for key in given.keys() - own.keys()]
        for key in own.keys() & given.keys():
            value, shape = given[key], tuple(own[key].shape)
            if not torch.overrides.is_tensor_like(value):
                found.append(f"{key} is a {type(value).__name__}, not a tensor")
            elif value.shape != shape and not (
                key.removeprefix(prefix) in self.of_any_length and value.dim() == len(shape) == 1
            ):
                found.append(f"{key} has the shape {tuple(value.shape)}, not {shape}")
        return sorted(found)
