"""Linear layers of an ONNX graph with two bits per weight, where all that is kept is of one magnitude.

`MatMulNBits` (domain `com.microsoft`, version 1) computes x Wᵀ from unsigned codes q and one scale s for
each block of inputs: w = (q - 2) s with two bits. Signed constants are q = 1 for -s, 2 for 0 and 3 for s.
Codes lie four to a byte, the first in the lowest bits; the last block of a row is filled up with zeros.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from supermask import extras

_BLOCKS = (16, 32, 64, 128, 256)
_ZERO = 2


def pack_linear_layers(model: Any) -> int:
    """Rewrite the linear layers of an ONNX model, in place; how many could be.

    Args:
        model: A `ModelProto` as torch writes it: a layer is a `Gemm`, or a `MatMul` with a constant.
    """
    onnx: Any = extras.load("onnx", "onnx")
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes, packed = [], []
    for node in graph.node:
        weight = _weight_of(onnx, node, constants)
        scale = None if weight is None else magnitude(weight)
        if weight is None or scale is None:
            nodes.append(node)
            continue
        new, tensors = _packed(onnx, node, weight, scale)
        nodes += new
        packed += tensors
    if packed:
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *packed])
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return len(packed) // 2


def magnitude(weight: NDArray[Any]) -> float | None:
    """The one magnitude of all weights but zeros; None where there are several, or none."""
    found = np.unique(np.abs(weight[weight != 0]))
    return float(found[0]) if len(found) == 1 else None


def codes(weight: NDArray[Any], block: int) -> NDArray[np.uint8]:
    """The codes of a weight (outputs, inputs), as (outputs, blocks, block / 4) bytes."""
    outputs, inputs = weight.shape
    blocks = -(-inputs // block)
    padded = np.full((outputs, blocks * block), _ZERO, dtype=np.uint8)
    padded[:, :inputs] = (np.sign(weight) + _ZERO).astype(np.uint8)
    quads = padded.reshape(outputs, blocks, block // 4, 4)
    shifted = quads << np.arange(0, 8, 2, dtype=np.uint8)
    return np.bitwise_or.reduce(shifted, axis=-1).astype(np.uint8)


def block_for(inputs: int) -> int:
    """Inputs per scale for which a row takes the fewest bytes: block / 4 for its codes, 4 for its scale."""
    return min(_BLOCKS, key=lambda block: -(-inputs // block) * (block // 4 + 4))


def _weight_of(onnx: Any, node: Any, constants: dict[str, Any]) -> NDArray[Any] | None:
    """The weight (outputs, inputs) of a linear layer, or None for another node."""
    if len(node.input) < 2 or node.input[1] not in constants:
        return None
    if node.op_type == "MatMul":
        weight = onnx.numpy_helper.to_array(constants[node.input[1]])
        return weight.T if weight.ndim == 2 else None
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0 and not options.get("transA", 0)
    if node.op_type == "Gemm" and plain and options.get("transB", 0):
        return np.asarray(onnx.numpy_helper.to_array(constants[node.input[1]]))
    return None


def _packed(onnx: Any, node: Any, weight: NDArray[Any], scale: float) -> tuple[list[Any], list[Any]]:
    """The nodes that take the place of a layer, and their constants."""
    outputs, inputs = weight.shape
    block, stem = block_for(inputs), node.output[0]
    packed = codes(weight, block)
    names = f"{stem}_codes", f"{stem}_scales"
    scales = np.full(packed.shape[:2], scale, dtype=np.float32)
    tensors = [
        onnx.numpy_helper.from_array(array, name) for array, name in zip((packed, scales), names, strict=True)
    ]
    bias = list(node.input[2:3]) if node.op_type == "Gemm" else []
    target = f"{stem}_product" if bias else stem
    product = onnx.helper.make_node(
        "MatMulNBits",
        [node.input[0], *names],
        [target],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=2,
        block_size=block,
    )
    return [product, *([onnx.helper.make_node("Add", [target, *bias], [stem])] if bias else [])], tensors
