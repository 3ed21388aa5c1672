"""A network in formats that run without this library: ONNX, and the programs of `torch.export`."""

from supermask.export.errors import ExportError as ExportError
from supermask.export.example import example_of as example_of
from supermask.export.onnx import ONNX_WEIGHTS as ONNX_WEIGHTS
from supermask.export.onnx import write_onnx as write_onnx
from supermask.export.program import write_program as write_program
