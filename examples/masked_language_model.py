"""Masks that transfer: found by guessing hidden words, used to classify, as with BERT.

    python examples/masked_language_model.py --out runs/masked-language-model

Chen et al., "The Lottery Ticket Hypothesis for Pre-trained BERT Networks" (NeurIPS 2020, arXiv 2007.12223),
at the size of a few minutes. An encoder is pretrained to guess hidden words of source code; IMP prunes it on
that task and goes back to the pretrained weights; the ticket (`imp-pretraining`) then learns another task,
that of text_classifier.py from few labelled pieces, with a new head. Beside it stand the ticket that IMP
finds on the classification itself (`imp-target`), a random mask of the pretrained weights, and the whole
network with and without pretraining. Neither head nor embedding is pruned. Unlike them we hide words by the
mask token alone, three of ten, and prune in two rounds.

The same is asked of weights that are never trained: a mask found by guessing words under a new head, the only
thing trained (`edge-popup-head`); its scores, searched on for the classification with a new head drawn like
the rest (`edge-popup-continued`); a search for the classification alone (`edge-popup-target`); and a random
mask under a trained head (`random-mask-frozen`). These masks cover the embedding.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from _corpus import MASK, PACKAGES, pieces
from _transformer import Transformer
from _trio import OnStep, parser, row, start, write_result
from text_classifier import ADAM, BATCH, EMBEDDING, LENGTH, Classifier, accuracy, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import supermask as sm
from supermask.masks import Mask, random_mask
from supermask.prune import apply_mask, snapshot
from supermask.training.loop import Schedule

HIDDEN = 0.3
"""Fraction of words that are to be guessed."""
HEAD = ["head.weight"]
ROUNDS = 2
AGAIN = 0.3
"""Learning rate of a round of IMP, as a fraction of that of pretraining."""
RECIPE: dict[str, dict[str, Any]] = {
    "train": {"lr": 3e-3, "weight_decay": 0.01, **ADAM},
    "draw": {"init": "signed_constant", "gain": 1.0, "include": EMBEDDING},
    "search": {"base": "adamw", "lr": 3e-3, "weight_decay": 0.0, "include": EMBEDDING, **ADAM},
}


class Guesser(nn.Module):
    """The classifier's body, with a word for each of the places asked for as output.

    Log-frequencies are added to the outputs, so that the network has to learn only what the place tells.
    """

    def __init__(self, count: Tensor) -> None:
        super().__init__()
        self.body = Transformer(len(count), length=LENGTH, spread=0.1)
        self.head = nn.Linear(128, len(count), bias=False)
        self.register_buffer("usual", (count + 1).log(), persistent=False)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        return self.head(self.body(tokens)[places]) + self.usual


def guess(model: nn.Module, tokens: Tensor, seed: int) -> Tensor:
    """Mean −ln of the probability of words hidden at random places."""
    places = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < HIDDEN
    return F.cross_entropy(model(tokens.masked_fill(places, MASK), places), tokens[places])


@torch.no_grad()
def bits_per_word(model: nn.Module, tokens: Tensor) -> float:
    model.eval()
    return float(guess(model, tokens, 0)) / math.log(2)


def pretrain(
    model: nn.Module,
    optimizer: Optimizer,
    tokens: Tensor,
    rate: Callable[[int], float],
    steps: range,
    on_step: OnStep = id,
) -> None:
    """Guess hidden words of random pieces in each of `steps`; `rate` is the learning rate's factor."""
    schedule = LambdaLR(optimizer, lambda done: rate(steps.start + done))
    model.train()
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        chosen = tokens[torch.randint(len(tokens), (BATCH,), generator=generator)]
        optimizer.zero_grad()
        guess(model, chosen, step).backward()
        optimizer.step()
        schedule.step()
        on_step(step + 1)


def held(model: nn.Module, mask: Mask) -> Optimizer:
    """The optimizer of all weights that a mask leaves."""
    apply_mask(model, mask)
    optimizer = torch.optim.AdamW(model.parameters(), **RECIPE["train"])
    sm.hold(optimizer, mask, model)
    return optimizer


def of_body(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What guesser and classifier have in common."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith("body.")}


def like(mask: Mask, seed: int) -> Mask:
    """A random mask with the counts of another."""
    shapes = {name: tuple(kept.shape) for name, kept in mask.items()}
    return random_mask(shapes, {name: int(kept.sum()) for name, kept in mask.items()}, seed)


class Transfer:
    """Both tasks, and what came out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.density, self.seed = options.out, options.density, options.seed
        corpus = pieces(LENGTH)
        known = corpus.split.train
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(self.seed))
        self.tokens, self.labelled = known[:, :-1], known[order[: options.labelled]]
        self.asked = corpus.split.validation if options.validation else corpus.split.test
        self.words, self.sha256 = len(corpus.words), corpus.sha256
        self.count = torch.bincount(self.tokens.flatten(), minlength=self.words)
        self.before = options.steps
        self.after = max(1, options.steps // 3)  # of a round of IMP, and of a classification
        self.rows: list[dict[str, Any]] = []

    def bits(self, model: nn.Module) -> float:
        return bits_per_word(model, self.asked[:, :-1])

    def classifier(self, body: Mapping[str, Tensor] | None = None) -> Classifier:
        torch.manual_seed(self.seed)
        model = Classifier(self.words, len(PACKAGES))
        if body:
            model.body.load_state_dict(body)
        return model

    def classify(self, model: nn.Module, optimizer: Optimizer, begin: int = 0, on_step: OnStep = id) -> None:
        train(model, optimizer, self.labelled, self.after, begin, on_step)

    def report(
        self, method: str, model: nn.Module, mask: Mask | None = None, bits: float | None = None
    ) -> None:
        measures = {} if bits is None else {"bits_per_hidden_word": bits}
        measures["accuracy"] = accuracy(model, self.asked)
        ticket = sm.Ticket.from_model(model, mask) if mask else None
        self.rows.append(row(method, self.density if mask else 1.0, measures, None, ticket, self.out))

    def trained(self) -> None:
        """Pretrain, prune on either task, learn the classification."""
        rate = 1 - self.density ** (1 / ROUNDS)
        falling = Schedule("cosine", self.before, warmup=min(20, self.before))
        again = Schedule("cosine", self.after)
        body: dict[str, Tensor] = {}
        bits: list[float] = []

        def guessing(model: nn.Module, mask: Mask, *, start: int, on_step: OnStep) -> None:
            def factor(step: int) -> float:
                return falling(step) if step < self.before else AGAIN * again(step - self.before)

            def done(step: int) -> None:
                on_step(step)
                if step == self.before:
                    body.update(snapshot(model.body))
                    bits.append(self.bits(model))

            steps = range(start, self.before + self.after)
            pretrain(model, held(model, mask), self.tokens, factor, steps, done)

        def classifying(model: nn.Module, mask: Mask, *, start: int, on_step: OnStep) -> None:
            self.classify(model, held(model, mask), start, on_step)

        torch.manual_seed(self.seed)
        guesser = Guesser(self.count)
        *_, found = sm.imp(guesser, guessing, rounds=ROUNDS, rate=rate, rewind_to=self.before, exclude=HEAD)
        bits.append(self.bits(guesser))
        for method, weights, mask, its_bits in (
            ("dense-unpretrained", None, {}, None),
            ("imp-pretraining", body, found.mask, bits[1]),
            ("random-mask", body, like(found.mask, self.seed), None),
        ):
            model = self.classifier(weights)
            self.classify(model, held(model, mask))
            self.report(method, model, mask, its_bits)
        model = self.classifier(body)
        for found in sm.imp(model, classifying, rounds=ROUNDS, rate=rate, exclude=HEAD):
            if found.round == 0:
                self.report("dense", model, None, bits[0])
        self.report("imp-target", model, found.mask)

    def untrained(self) -> None:
        """Search on hidden words, on the classification, on one after the other."""

        def search(model: nn.Module, scores: Mapping[str, Tensor] | None = None) -> sm.Search:
            sm.randomize_(model, seed=self.seed, density=self.density, **RECIPE["draw"])
            return sm.EdgePopup(
                model, density=self.density, seed=self.seed, scores=scores, **RECIPE["search"]
            )

        guesser = Guesser(self.count)
        found = search(guesser)
        falling = Schedule("cosine", self.before, warmup=min(20, self.before))
        pretrain(guesser, found, self.tokens, falling, range(self.before))
        bits, mask = self.bits(guesser), of_body(found.mask)
        for method, scores in (("edge-popup-continued", of_body(found.scores)), ("edge-popup-target", None)):
            model = self.classifier()
            again = search(model, scores)
            self.classify(model, again)
            self.report(method, model, again.mask, bits if scores else None)
        for method, chosen in (("edge-popup-head", mask), ("random-mask-frozen", like(mask, self.seed))):
            model = self.classifier()
            sm.randomize_(model, seed=self.seed, density=self.density, exclude=HEAD, **RECIPE["draw"])
            apply_mask(model, chosen)
            model.head.requires_grad_(True)
            self.classify(model, torch.optim.AdamW(model.head.parameters(), **RECIPE["train"]))
            self.report(method, model, chosen, bits if chosen is mask else None)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    flags = parser(__doc__, steps=1600, density=0.3)
    flags.add_argument("--labelled", type=int, default=1000, help="pieces with a label (1000)")
    options = start(flags, arguments)
    transfer = Transfer(options)
    transfer.trained()
    transfer.untrained()
    about = {"task": "package of a stretch of source, after guessing hidden words of it"}
    about |= {"corpus sha256": transfer.sha256, "pieces": [len(transfer.tokens), len(transfer.asked)]}
    about |= {"labelled": options.labelled, "steps": [transfer.before, transfer.after], "batch": BATCH}
    measures = {"bits_per_hidden_word": "bits per hidden word", "accuracy": "accuracy, %"}
    return write_result(
        "masked_language_model",
        options,
        about={**about, "recipe": RECIPE},
        measures=measures,
        rows=transfer.rows,
    )


if __name__ == "__main__":
    main()
