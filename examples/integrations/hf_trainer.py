"""A search in the Trainer of Hugging Face transformers: `optimizers=` takes it as it is.

python examples/integrations/hf_trainer.py
"""

import argparse
from typing import Any

import torch
from _digits import accuracy, digits, network, search_of
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments


class WithLoss(nn.Module):
    """A Trainer's model gives its loss itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(images)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def main(steps: int = 200, out: str = "hf-trainer.ticket") -> float:
    net = network()
    search = search_of(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, T_max=steps)
    (images, labels), _ = digits()
    rows: Any = [{"images": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=f"{out}.trainer",
        max_steps=steps,
        per_device_train_batch_size=64,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(WithLoss(net), arguments, train_dataset=rows, optimizers=(search, schedule)).train()
    search.ticket().save(out)
    return accuracy(net)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    print(f"test accuracy {main(parser.parse_args().steps):.3f}")
