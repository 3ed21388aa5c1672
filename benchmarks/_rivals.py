"""Linear layers of other packages, as many as are installed: `pip install supermask[rivals]`.

Each takes a matrix of -1, 0 and +1 with a scale, and gives a function of a float32 matrix of inputs. Weights
are exact there, in 2 or 4 bits with a scale for every 128 inputs; inputs are rounded.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 128  # inputs that share a scale


class Rival(NamedTuple):
    """How another package computes a layer; `make` takes signs, their scale and the number of threads."""

    package: str
    bits: float  # that it holds for each weight, scales included
    rounds: str
    make: Callable[[Tensor, float, int], Callable[[Tensor], Any]]


def onnxruntime_two_bits(signs: Tensor, scale: float, threads: int) -> Callable[[Tensor], Any]:
    """The operator MatMulNBits with 2 bits and the accuracy level that allows int8 inputs."""
    import onnxruntime
    from onnx import TensorProto, helper

    outputs, inputs = signs.shape
    codes = (signs.numpy() + 2).astype(np.uint8).reshape(outputs, inputs // BLOCK, BLOCK // 4, 4)
    packed = (codes << np.arange(0, 8, 2, dtype=np.uint8)).sum(
        axis=3, dtype=np.uint8
    )  # 2 stands for weight 0
    scales = np.full((outputs, inputs // BLOCK), scale, np.float32)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "weights", "scales"],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=2,
        block_size=BLOCK,
        accuracy_level=4,
    )
    constants = [
        helper.make_tensor("weights", TensorProto.UINT8, packed.shape, packed.tobytes(), raw=True),
        helper.make_tensor("scales", TensorProto.FLOAT, scales.shape, scales.tobytes(), raw=True),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])]
        for name, size in (("x", inputs), ("y", outputs))
    ]
    graph = helper.make_graph([node], "layer", *ends, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def openvino_four_bits(signs: Tensor, scale: float, threads: int) -> Callable[[Tensor], Any]:
    """A product with compressed weights of 4 bits, inputs rounded as OpenVINO does by default."""
    import openvino
    from openvino import opset13

    outputs, inputs = signs.shape
    grouped = [outputs, inputs // BLOCK, BLOCK]
    codes = (signs.numpy() + 1).astype(np.uint8).reshape(-1, 2)
    packed = np.ascontiguousarray(codes[:, 0] | codes[:, 1] << 4)
    kind = openvino.Type.u4
    weights = openvino.op.Constant(openvino.Tensor(packed, openvino.Shape(grouped), kind))
    zero = openvino.op.Constant(kind, openvino.Shape([*grouped[:2], 1]), [1] * (outputs * grouped[1]))
    scales = opset13.constant(np.full([*grouped[:2], 1], scale, np.float32))
    centred = opset13.subtract(opset13.convert(weights, "f32"), opset13.convert(zero, "f32"))
    shape = opset13.constant(np.array([outputs, inputs], np.int64))
    matrix = opset13.reshape(opset13.multiply(centred, scales), shape, False)
    x = opset13.parameter([-1, inputs], openvino.Type.f32)
    model = openvino.Model([opset13.matmul(x, matrix, False, True)], [x])
    settings = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def call(x: Tensor, _held: Any = packed) -> Any:  # the constant refers to its memory
        return request.infer({0: x.numpy()}, share_inputs=True)[0]

    return call


def torch_four_bits(signs: Tensor, scale: float, threads: int) -> Callable[[Tensor], Any]:
    """torch's own product with weights of 4 bits, which torchao calls on a CPU; inputs in bfloat16."""
    codes = (signs + 8).to(torch.int32)  # 8 stands for weight 0
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    outputs, inputs = signs.shape
    scales = torch.zeros(inputs // BLOCK, outputs, 2, dtype=torch.bfloat16)
    scales[..., 0] = scale
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), packed, BLOCK, scales)


RIVALS = {
    "onnxruntime 2 bits": Rival("onnxruntime", 2.25, "inputs, int8", onnxruntime_two_bits),
    "openvino 4 bits": Rival("openvino", 4.28, "inputs, int8", openvino_four_bits),
    "torch 4 bits": Rival("torch", 4.25, "inputs and scales, bfloat16", torch_four_bits),
}


def installed(inputs: int) -> dict[str, Rival]:
    """The rivals that are here and compute layers of so many inputs."""
    if inputs % BLOCK:
        return {}
    return {name: rival for name, rival in RIVALS.items() if _has(rival.package)}


def _has(package: str) -> bool:
    needed = ("onnx", package) if package == "onnxruntime" else (package,)
    return all(importlib.util.find_spec(name) is not None for name in needed)


def versions() -> dict[str, str]:
    """Package → version, of the rivals that are here."""
    from importlib.metadata import version

    return {rival.package: version(rival.package) for rival in RIVALS.values() if _has(rival.package)}
