"""The input that a network is traced with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supermask.export.errors import ExportError

BATCH = 2
"""Rows of an example: an exporter takes a size of 1 for a constant."""


def example_of(factory: Mapping[str, Any] | None) -> Tensor:
    """Normal random images, (2, C, H, W), float32, of the shape that a factory says its network takes.

    Raises:
        ExportError: There is no factory, or it does not say so.
    """
    arguments = (factory or {}).get("args")
    sizes = [
        arguments.get(key) if isinstance(arguments, Mapping) else None
        for key in ("in_channels", "image_size")
    ]
    if not all(type(size) is int for size in sizes):
        raise ExportError(
            "the ticket does not record what its network takes, because that was built outside the library; "
            "give example=, a batch of at least two inputs"
        )
    channels, side = sizes
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, channels, side, side, generator=generator)  # type: ignore[arg-type]


def traced(network: torch.nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The program of a network for any number of rows.

    Raises:
        ExportError: `torch.export` cannot follow it.
    """
    if not isinstance(example, Tensor) or example.dim() < 1 or len(example) < 2:
        what = f"of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ExportError(f"an example is a tensor, a batch of at least two inputs, not {what}")
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        return torch.export.export(network.eval(), (example,), dynamic_shapes=shapes)
    except Exception as error:  # whatever the tracer meets, the user learns that it was the tracer
        raise ExportError(
            f"torch.export cannot follow the network: {str(error).strip().splitlines()[0]}"
        ) from error
