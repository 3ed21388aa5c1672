"""A network as a `.pt2` file: the program of `torch.export`, which needs torch to run and nothing else."""

import io
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from supermask.export.example import traced
from supermask.io import write_bytes


def write_program(network: nn.Module, path: str | os.PathLike[str], example: Tensor) -> Path:
    """Write a network as a program of `torch.export`, atomically; `torch.export.load` reads it.

    Args:
        network: In the state to be written; its outputs in evaluation mode are kept.
        path: The file, usually named `*.pt2`.
        example: A batch of at least two inputs; the program takes any number.

    Raises:
        ExportError: `torch.export` cannot follow the network.
        OSError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.export.save(traced(network, example), buffer)
    write_bytes(path, buffer.getvalue())
    return Path(path)
