"""A language model: a small causal transformer that guesses the next character of Python's documentation.

    python examples/language_model.py --out runs/language-model

Reported are bits per character on blocks of the text that no training batch comes from, beside those of
characters guessed from their frequencies and from the character before.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from _corpus import documentation
from _transformer import Transformer
from _trio import Example, OnStep, parser, row, start, trio, write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import supermask as sm
from supermask.train import Schedule

LENGTH, BATCH = 64, 32
WEIGHTS = {"lr": 3e-3, "betas": (0.9, 0.98), "weight_decay": 0.01}
DRAW = {"init": "signed_constant"}
SCORES = {"base": "adamw", "lr": 3e-3, "betas": (0.9, 0.98), "weight_decay": 0.0}


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
    schedule = Schedule("cosine", steps, warmup=min(20, steps))
    rates = [group["lr"] for group in optimizer.param_groups]
    window = torch.arange(LENGTH + 1)
    model.train()
    for step in range(begin, steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step)
        generator = torch.Generator().manual_seed(step)
        places = torch.randint(len(text) - LENGTH, (BATCH, 1), generator=generator)
        characters = text[places + window]
        optimizer.zero_grad()
        F.cross_entropy(model(characters[:, :-1]).flatten(0, 1), characters[:, 1:].flatten()).backward()
        optimizer.step()
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


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = start(parser(__doc__, steps=800, density=0.5), arguments)
    corpus = documentation()
    known = corpus.split.train
    text = corpus.split.validation if options.validation else corpus.split.test
    example = Example(
        network=lambda: LanguageModel(len(corpus.alphabet)),
        trainer=lambda model: torch.optim.AdamW(model.parameters(), **WEIGHTS),
        draw=lambda model: sm.randomize_(model, seed=options.seed, density=options.density, **DRAW),
        search=lambda model: sm.EdgePopup(model, density=options.density, seed=options.seed, **SCORES),
        loop=lambda model, optimizer, begin, on_step: train(
            model, optimizer, known, options.steps, begin, on_step
        ),
        measure=lambda model: {"bits_per_character": bits_per_character(model, text)},
    )
    found = trio(
        example,
        density=options.density,
        rounds=2,
        rewind_to=options.steps // 20,
        seed=options.seed,
        out=options.out,
    )
    for name, bits in by_counting(known, text, len(corpus.alphabet)).items():
        found.append(row(name, None, {"bits_per_character": bits}, 0.0))
    about = {"task": "next character of Python's documentation", "corpus sha256": corpus.sha256}
    about |= {"characters": [len(known), len(text)], "steps": options.steps, "batch": [BATCH, LENGTH]}
    about |= {"weights": WEIGHTS, "scores": SCORES}
    return write_result(
        "language_model",
        options,
        about=about,
        measures={"bits_per_character": "bits per character"},
        rows=found,
    )


if __name__ == "__main__":
    main()
