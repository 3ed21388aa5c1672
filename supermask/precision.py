"""In which precision a network computes while it trains."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """The context in which a network of this `amp` computes on `device`."""
    dtype = AMP_DTYPES[amp]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
