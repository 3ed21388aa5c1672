"""A long short-term memory: the language model's task, done by a recurrent network.

    python examples/lstm.py --out runs/lstm

Masked are, as by default, the weights of all gates, those from the input and those from the state before, and
the output layer. Text, loop and measure are those of language_model.py.
"""

from collections.abc import Sequence
from typing import Any

from _trio import parser, start
from language_model import ADAM, run
from torch import Tensor, nn

RECIPE: dict[str, dict[str, Any]] = {
    "train": {"lr": 1e-2, "weight_decay": 0.01, **ADAM},
    "draw": {"init": "signed_constant", "gain": 1.0},
    "search": {"base": "adamw", "lr": 1e-2, "weight_decay": 0.0, **ADAM},
}


class RecurrentModel(nn.Module):
    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, 128)
        self.body = nn.LSTM(128, 256, batch_first=True)
        self.head = nn.Linear(256, alphabet, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(text))[0])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = start(parser(__doc__, steps=1500, density=0.5), arguments)
    return run("lstm", RecurrentModel, RECIPE, options)


if __name__ == "__main__":
    main()
