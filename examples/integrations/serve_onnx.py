"""A ticket served without torch: written as ONNX with two bits per weight, and run by onnxruntime.

python examples/integrations/serve_onnx.py
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from _digits import digits, network, search_of
from torch.nn import functional as F

from supermask.export import write_onnx


def main(steps: int = 200, out: str = "served.ticket") -> float:
    (images, labels), (test_images, test_labels) = digits()
    model = network()
    search = search_of(model)
    for _ in range(steps):
        F.cross_entropy(model(images), labels).backward()
        search.step()
        search.zero_grad()
    search.ticket().save(out)
    path = write_onnx(model, Path(out).with_suffix(".onnx"), images[:2], weights="2bit")

    # From here on nothing of torch or supermask is needed.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"input": test_images.numpy()})
    return float(np.mean(outputs.argmax(1) == test_labels.numpy()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    print(f"test accuracy {main(parser.parse_args().steps):.3f}")
