"""A search in Lightning: `configure_optimizers` returns it, and a callback saves the ticket.

python examples/integrations/lightning_module.py
"""

import argparse
import warnings
from pathlib import Path

import lightning
import torch
from _digits import accuracy, digits, network, search_of
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Searching(lightning.LightningModule):
    """A network under a search; nothing else is special."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.net, self.steps = network(), steps

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> dict[str, object]:
        search = search_of(self.net)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, T_max=self.steps)
        return {"optimizer": search, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SaveTicket(lightning.Callback):
    """Saves the ticket of the search that trained, when it is over."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.optimizers[0].ticket().save(self.path)


def main(steps: int = 200, out: str = "lightning.ticket") -> float:
    module = Searching(steps)
    loader = DataLoader(TensorDataset(*digits()[0]), batch_size=64, shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on the number of workers
        lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[SaveTicket(out)],
        ).fit(module, loader)
    return accuracy(module.net)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    print(f"test accuracy {main(parser.parse_args().steps):.3f}")
