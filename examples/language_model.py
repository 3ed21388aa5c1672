"""A language model: a small causal transformer that guesses the next character of Python's documentation.

    python examples/language_model.py --out runs/language-model

Reported are bits per character on blocks of the text that no training batch comes from, beside those of
characters guessed from their frequencies and from the character before.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from _corpus import documentation
from _transformer import Transformer
from _trio import Example, OnStep, parser, row, start, trio, write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import supermask as sm
from supermask.training.loop import Schedule

LENGTH, BATCH = 64, 16
ADAM = {"betas": (0.9, 0.98)}
RECIPE: dict[str, dict[str, Any]] = {
    "train": {"lr": 6e-3, "weight_decay": 0.01, **ADAM},
    "draw": {"init": "signed_constant", "gain": 1.0},
    "search": {"base": "adamw", "lr": 6e-3, "weight_decay": 0.0, **ADAM},
}


class LanguageModel(nn.Module):
    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.body = Transformer(alphabet, length=LENGTH, causal=True)
        self.head = nn.Linear(128, alphabet, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.body(text))


def train(
    model: nn.Module, optimizer: Optimizer, text: Tensor, steps: int, begin: int = 0, on_step: OnStep = id
) -> None:
    """Steps `begin` to `steps` over random windows of the text, the learning rate falling to zero."""
    rate = Schedule("cosine", steps, warmup=min(20, steps))
    schedule = LambdaLR(optimizer, lambda done: rate(begin + done))
    window = torch.arange(LENGTH + 1)
    model.train()
    for step in range(begin, steps):
        generator = torch.Generator().manual_seed(step)
        places = torch.randint(len(text) - LENGTH, (BATCH, 1), generator=generator)
        characters = text[places + window]
        optimizer.zero_grad()
        F.cross_entropy(model(characters[:, :-1]).flatten(0, 1), characters[:, 1:].flatten()).backward()
        optimizer.step()
        schedule.step()
        on_step(step + 1)


@torch.no_grad()
def bits_per_character(model: nn.Module, text: Tensor) -> float:
    """Mean −log₂ of the probability of each character after the first, given at most 64 before it."""
    model.eval()
    whole = (len(text) - 1) // LENGTH * LENGTH
    inputs, targets = text[:whole].view(-1, LENGTH), text[1 : whole + 1].view(-1, LENGTH)
    nats = sum(
        float(F.cross_entropy(model(seen).flatten(0, 1), wanted.flatten(), reduction="sum"))
        for seen, wanted in zip(inputs.split(64), targets.split(64), strict=True)
    )
    return nats / whole / math.log(2)


def by_counting(known: Tensor, text: Tensor, alphabet: int) -> dict[str, float]:
    """Bits per character of unigrams and bigrams, each character counted half a time more than seen."""
    pairs = torch.full((alphabet, alphabet), 0.5, dtype=torch.float64)
    pairs.index_put_((known[:-1], known[1:]), torch.ones((), dtype=torch.float64), accumulate=True)
    single = pairs.sum(0) / pairs.sum()
    after = pairs / pairs.sum(1, keepdim=True)
    return {
        "unigrams": float(-single[text[1:]].log2().mean()),
        "bigrams": float(-after[text[:-1], text[1:]].log2().mean()),
    }


def run(
    name: str,
    network: Callable[[int], nn.Module],
    recipe: Mapping[str, Mapping[str, Any]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Do the task with `network(alphabet)`: dense, as a ticket, never trained.

    Args:
        recipe: What `draw` gives to `randomize_`, `search` to the search and `train` to AdamW.
    """
    corpus = documentation()
    known = corpus.split.train
    text = corpus.split.validation if options.validation else corpus.split.test
    density, seed = options.density, options.seed
    example = Example(
        network=lambda: network(len(corpus.alphabet)),
        trainer=lambda model: torch.optim.AdamW(model.parameters(), **recipe["train"]),
        draw=lambda model: sm.randomize_(model, seed=seed, density=density, **recipe["draw"]),
        search=lambda model: sm.EdgePopup(model, density=density, seed=seed, **recipe["search"]),
        loop=lambda model, optimizer, begin, on_step: train(
            model, optimizer, known, options.steps, begin, on_step
        ),
        measure=lambda model: {"bits_per_character": bits_per_character(model, text)},
    )
    rewind_to = options.steps // 20
    found = trio(example, density=density, rounds=2, rewind_to=rewind_to, seed=seed, out=options.out)
    for rule, bits in by_counting(known, text, len(corpus.alphabet)).items():
        found.append(row(rule, None, {"bits_per_character": bits}, None))
    about = {"task": "next character of Python's documentation", "corpus sha256": corpus.sha256}
    about |= {"characters": [len(known), len(text)], "steps": options.steps, "batch": [BATCH, LENGTH]}
    measures = {"bits_per_character": "bits per character"}
    return write_result(name, options, about={**about, "recipe": recipe}, measures=measures, rows=found)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = start(parser(__doc__, steps=1500, density=0.5), arguments)
    return run("language_model", LanguageModel, RECIPE, options)


if __name__ == "__main__":
    main()
