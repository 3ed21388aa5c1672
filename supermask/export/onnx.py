"""A network as an ONNX file, which is run once and compared before it is handed out."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supermask import extras
from supermask.export.errors import ExportError
from supermask.export.example import traced
from supermask.export.two_bit import pack_linear_layers
from supermask.io import write_bytes

ONNX_WEIGHTS = ("float32", "2bit")
LIMIT = 2**31 - 1
"""Bytes of an ONNX file: it is one message of protobuf."""
_TOLERANCE = 1e-4
"""Largest difference to the network's outputs, as a fraction of the largest of them."""


def write_onnx(
    network: nn.Module, path: str | os.PathLike[str], example: Tensor, *, weights: str = "float32"
) -> Path:
    """Write a network as ONNX, atomically, once onnxruntime has given the network's outputs with it.

    The graph has one input, `input`, and one output, `output`, each with a first dimension of any size.

    Args:
        network: In the state to be written, on the CPU; its outputs in evaluation mode are kept.
        path: The file.
        example: A batch of at least two inputs.
        weights: `float32`, or `2bit`: linear layers whose kept weights are of one magnitude, as signed
            constants are, hold two bits per weight (`MatMulNBits` of the domain `com.microsoft`, which
            onnxruntime has); other layers are as they were.

    Raises:
        ValueError: `weights` is none of `ONNX_WEIGHTS`.
        ExportError: The network cannot be followed, has packed layers or no layer for two bits, is too large
            for one file, or onnxruntime gives other outputs.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        OSError: The file cannot be written.
    """
    if weights not in ONNX_WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(ONNX_WEIGHTS)}, not {weights!r}")
    extras.require("onnx")
    # Known by what they can do: their module imports tickets, which import this one.
    packed = [
        name or "the network" for name, module in network.named_modules() if hasattr(module, "unpacked")
    ]
    if packed:
        raise ExportError(
            f"ONNX has no operators for packed layers ({', '.join(packed)}); write the network that "
            "sm.pack was given, with weights='2bit' for a small file, or .pt2"
        )
    model = _model_of(network, example)
    if weights == "2bit" and not pack_linear_layers(model):
        raise ExportError(
            "the network has no linear layer whose kept weights are all of one magnitude, as after the init "
            "signed_constant; take weights='float32'"
        )
    if model.ByteSize() > LIMIT:
        raise ExportError(
            f"the file would have {model.ByteSize()} bytes, and ONNX allows {LIMIT}; write .pt2"
        )
    data = model.SerializeToString()
    _check(data, network, example)
    write_bytes(path, data)
    return Path(path)


def _model_of(network: nn.Module, example: Tensor) -> Any:
    """The graph as protobuf; torch's exporter says nothing on the way."""
    program = traced(network, example)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter uses functions of torch that torch has deprecated
            written = torch.onnx.export(
                program, dynamo=True, input_names=["input"], output_names=["output"], verbose=False
            )
    except Exception as error:  # whatever it meets, the user learns that it was the exporter
        raise ExportError(f"torch.onnx cannot write it: {str(error).strip().splitlines()[0]}") from error
    assert written is not None
    return written.model_proto


def _check(data: bytes, network: nn.Module, example: Tensor) -> None:
    """Run the file and compare; a wrong file is worse than none."""
    runtime: Any = extras.load("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {"input": example.numpy()})
    except Exception as error:  # its errors have no common class
        raise ExportError(f"onnxruntime cannot run it: {str(error).strip().splitlines()[0]}") from error
    with torch.no_grad():
        expected = network.eval()(example).numpy()
    difference = float(np.abs(outputs - expected).max())
    if not difference <= _TOLERANCE * float(np.abs(expected).max()):
        raise ExportError(f"onnxruntime gives other outputs than the network, by up to {difference:.3g}")
