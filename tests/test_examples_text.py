"""The examples on text: their corpora, their formulas, a few steps of each, and their tickets."""

import importlib
import math
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

import supermask as sm
from supermask.io import read_json
from supermask.weights.init import init_of

EXAMPLES = Path(__file__).parents[1] / "examples"
TRIO = {"edge-popup", "random-mask-frozen", "dense", "imp"}


@pytest.fixture(scope="module")
def example():
    """Imports a script, or what the scripts share, by name."""

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    before = set(sys.modules)
    sys.path.insert(0, str(EXAMPLES))
    yield load
    sys.path.remove(str(EXAMPLES))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(EXAMPLES)):
            del sys.modules[name]


@pytest.fixture
def short(example, monkeypatch):
    """The scripts find a small part of their corpora, so that they measure in no time."""
    corpus = example("_corpus")

    def cut(whole, part):
        split = whole.split
        few = corpus.Split(split.train[part], split.validation[part], split.test[part])
        return replace(whole, split=few)

    for script, name, part in (
        ("language_model", "documentation", slice(4000)),
        ("text_classifier", "pieces", slice(None, None, 10)),
        ("masked_language_model", "pieces", slice(None, None, 10)),
    ):
        whole = getattr(corpus, name)
        patched = partial(lambda whole, part, *length: cut(whole(*length), part), whole, part)
        monkeypatch.setattr(example(script), name, patched)
    return example


# Corpora.


def test_the_documentation_is_text_with_each_paragraph_once_and_always_the_same(example):
    corpus, again = (example("_corpus").documentation() for _ in range(2))
    parts = (corpus.split.train, corpus.split.validation, corpus.split.test)
    assert corpus.sha256 == again.sha256 and re.fullmatch("[0-9a-f]{64}", corpus.sha256)
    assert torch.equal(corpus.split.test, again.split.test)
    assert 200_000 < sum(map(len, parts)) and len(parts[0]) / sum(map(len, parts)) == pytest.approx(
        0.8, abs=0.01
    )
    text = "".join(corpus.alphabet[i] for i in corpus.split.test.tolist())
    paragraphs = [paragraph for paragraph in text.split("\n\n") if len(paragraph) > 80]
    assert len(set(paragraphs)) == len(paragraphs) > 50
    known = "".join(corpus.alphabet[i] for i in corpus.split.train.tolist())
    assert not any(paragraph in known for paragraph in paragraphs[1:-1])


def test_pieces_read_as_the_source_they_are_labelled_with(example):
    module = example("_corpus")
    corpus, again = module.pieces(32, 4096), module.pieces(32, 4096)
    assert corpus.sha256 == again.sha256 and torch.equal(corpus.split.train, again.split.train)
    for part in (corpus.split.train, corpus.split.validation, corpus.split.test):
        assert set(part[:, -1].tolist()) == set(range(len(module.PACKAGES)))
        assert part[:, :-1].min() >= 0 and part[:, :-1].max() < 4096
        assert not (part[:, :-1] == module.MASK).any()
    for row in corpus.split.test[::200].tolist():
        words = [re.escape(corpus.words[i]) if i else r"\S+?" for i in row[:-1]]
        assert re.search(r"\s*".join(words), module.source(module.PACKAGES[row[-1]]))


def test_contiguous_blocks_are_dealt_out_eight_to_one_to_one(example):
    split = example("_corpus").Split.of(torch.arange(1000), 20)
    assert split.validation.tolist() == [*range(400, 450), *range(900, 950)]
    assert split.test.tolist() == [*range(450, 500), *range(950, 1000)]
    assert len(split.train) == 800


# Networks and measures.


def test_attention_of_the_transformer_is_what_it_says(example):
    torch.manual_seed(0)
    transformer = example("_transformer").Transformer
    causal, both = (transformer(11, length=8, width=16, depth=1, causal=c).eval() for c in (True, False))
    tokens = torch.randint(11, (2, 8))
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 1) % 11
    assert torch.equal(causal(tokens)[:, :5], causal(other)[:, :5])
    assert not torch.allclose(both(tokens)[:, 0], both(other)[:, 0])
    assert not torch.allclose(both(tokens)[:, 7], both(other)[:, 7])
    # Bias of the second causal head, slope 1/4, and of the fourth head of the other, slope 1/4 to the right.
    assert causal.bias[1, 4].tolist() == [-1.0, -0.75, -0.5, -0.25, 0.0, *[-math.inf] * 3]
    assert both.bias[3, 4].tolist() == [*[-math.inf] * 4, 0.0, -0.25, -0.5, -0.75]


def test_bits_per_character_are_those_of_the_probabilities(example):
    module = example("language_model")
    torch.manual_seed(0)
    text = torch.randint(5, (3 * module.LENGTH + 7,))
    model = module.LanguageModel(5)
    total = 0.0
    for place in range(3 * module.LENGTH):
        first = place // module.LENGTH * module.LENGTH
        logits = model(text[None, first : place + 1])[0, -1].detach().double()
        total -= math.log2(logits.softmax(0)[text[place + 1]])
    assert module.bits_per_character(model, text) == pytest.approx(total / (3 * module.LENGTH), rel=1e-5)
    counted = module.by_counting(torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0, 1, 0]), 2)
    # Pairs 01 and 10 twice each, and every pair half a time more: P(1 after 0) = P(0 after 1) = 2.5 / 3.
    assert counted == {"unigrams": 1.0, "bigrams": pytest.approx(-math.log2(2.5 / 3))}


def test_hidden_words_alone_are_guessed(example):
    module = example("masked_language_model")
    tokens = torch.randint(2, 50, (4, module.LENGTH), generator=torch.Generator().manual_seed(3))
    seen = {}

    def model(given, places):
        seen.update(given=given, places=places)
        return torch.nn.functional.one_hot(tokens[places], 50) * 30.0

    assert module.guess(model, tokens, 1) == pytest.approx(0.0, abs=1e-6)
    hidden = seen["places"]
    assert 0.05 < hidden.float().mean() < 0.3
    assert (seen["given"][hidden] == 1).all() and torch.equal(seen["given"][~hidden], tokens[~hidden])


# Whole scripts.


@pytest.mark.parametrize("name", ["language_model", "text_classifier", "lstm"])
def test_a_script_does_its_task_three_ways_and_its_tickets_come_back(short, name, tmp_path):
    module, out = short(name), tmp_path / "out"
    result = module.main(["--steps", "3", "--density", "0.4", "--out", str(out)])
    assert read_json(out / f"{name}.json") == result
    assert result["command"] == f"python examples/{name}.py --steps 3 --density 0.4 --out {out}"
    assert result["split"] == "test" and result["machine"]["torch"] == torch.__version__
    rows = {row["method"]: row for row in result["rows"]}
    (measure,) = result["measures"]
    assert TRIO < set(rows) and all(math.isfinite(row[measure]) for row in rows.values())
    for method in TRIO - {"dense"}:
        ticket = sm.Ticket.load(out / rows[method]["ticket"])
        assert ticket.density == pytest.approx(0.4, abs=0.001)
        assert ticket.strong == (method != "imp")
        if method == "edge-popup":
            model, again = rebuilt(short, name)
            ticket.apply(model)
            assert again(model) == pytest.approx(rows[method][measure], rel=1e-6)
            untouched(model, embedding=name == "text_classifier")


def rebuilt(example, name):
    """A new network of a script, and what the script measures of it."""
    module = example(name)
    if name == "text_classifier":
        corpus = module.pieces(module.LENGTH)
        model = module.Classifier(len(corpus.words), len(module.PACKAGES))
        return model, lambda model: module.accuracy(model, corpus.split.test)
    corpus = example("language_model").documentation()
    network = module.RecurrentModel if name == "lstm" else module.LanguageModel
    measure = example("language_model").bits_per_character
    return network(len(corpus.alphabet)), lambda model: measure(model, corpus.split.test)


def untouched(model, embedding):
    """Every weight is 0 or what was drawn; layers are masked, and the embedding if asked for."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    for draw in init_of(model).draws:
        weight = named[draw.name]
        assert torch.equal(weight, torch.where(weight != 0, draw.weight(0), 0.0))
        assert bool((weight == 0).any()) == (draw.masked or "bias" in draw.name)
        assert draw.masked == (weight.dim() == 2 and (embedding or "embedding" not in draw.name))


def test_masks_found_on_hidden_words_are_carried_over(short, tmp_path):
    module = short("masked_language_model")
    result = module.main(["--steps", "8", "--labelled", "64", "--out", str(tmp_path)])
    rows = {row["method"]: row for row in result["rows"]}
    trained = {"dense-unpretrained", "dense", "imp-pretraining", "imp-target", "random-mask"}
    frozen = {"edge-popup-head", "edge-popup-continued", "edge-popup-target", "random-mask-frozen"}
    assert set(rows) == trained | frozen
    tickets = {
        name: sm.Ticket.load(tmp_path / rows[name]["ticket"]) for name in rows if "ticket" in rows[name]
    }
    for name, ticket in tickets.items():
        assert ticket.density == pytest.approx(0.3, abs=0.001)
        assert ("head.weight" in ticket.mask()) == (name in {"edge-popup-continued", "edge-popup-target"})
        assert ticket.strong == (name in frozen)
    bodies = [tickets[name].weights()["body.blocks.0.up.weight"] for name in sorted(frozen)]
    for one in bodies:  # the same draws, at places of their own
        for other in bodies:
            both = (one != 0) & (other != 0)
            assert both.any() and torch.equal(one[both], other[both])
    heads = [tickets[name].weights()["head.weight"] for name in ("edge-popup-head", "random-mask-frozen")]
    assert not torch.equal(*heads)
