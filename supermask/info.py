"""`python -m supermask.info`: which implementation serves each operator, and why."""

import torch

from supermask import ops


def describe() -> str:
    """Versions and, for each device, one line per operator."""
    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads"]
    for device in ("cpu", "cuda"):
        backends = ops.backends(device)
        width = max(map(len, backends)) + 1
        lines += ["", device, *(f"  {name:<{width}}{backend}" for name, backend in backends.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
