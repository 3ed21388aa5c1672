"""What tickets, rounds and searches show of themselves, and how tickets compare."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import torch

import supermask as sm
from supermask import ops
from supermask.cli import main
from supermask.masks.summary import LayerCount, as_html, as_text
from supermask.packed import PackedConv2d
from supermask.tickets.difference import difference


def ticket_of(density: float = 0.5, seed: int = 0, **provenance: object) -> sm.Ticket:
    """A strong ticket whose scores are drawn from `seed`."""
    model = sm.create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8, bias=True)
    sm.randomize_(model, init="signed_constant", seed=0, density=density)
    return sm.EdgePopup(model, density=density, lr=0.1, seed=seed).ticket(provenance)


class Table(HTMLParser):
    """Rows of the one table of a page, and tags that were left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_five_lines_say_what_a_ticket_is():
    lines = repr(ticket_of(0.3, data="digits")).splitlines()
    assert len(lines) == 5
    assert lines[0] == "Ticket (strong) of lenet-300-100"
    assert lines[1] == f"  density 0.3: {round(0.3 * 64 * 300) + 9000 + 300:,} of 50,200 weights in 3 layers"
    assert lines[3:] == ["  init signed_constant, seed 0", "  method edge-popup, data digits"]


def test_five_lines_say_where_a_search_is(small_net, batch):
    sm.randomize_(small_net, seed=0, density=0.5)
    search = sm.EdgePopup(small_net, density=0.5, lr=0.1, momentum=0.9, seed=7)
    sm.fit(small_net, search, lambda step: batch, steps=2)
    lines = repr(search).splitlines()
    assert len(lines) == 5 and lines[0] == "EdgePopup of SmallNet, after 2 steps"
    assert lines[4] == "  scores moved by SGD: lr 0.1, momentum 0.9; drawn from seed 7"


def test_the_table_of_a_notebook_has_every_layer():
    ticket = ticket_of(0.3)
    table = Table(ticket._repr_html_())
    assert not table.open and len(table.rows) == 1 + 3
    kept = ticket.kept
    for (name, shape, count, density, _), entry in zip(
        table.rows[1:], (e for e in ticket.entries if e.masked), strict=True
    ):
        assert (name, shape) == (entry.name, "×".join(map(str, entry.shape)))
        assert int(count.replace(",", "")) == kept[name] and float(density) == pytest.approx(0.3, abs=1e-3)


def test_a_hostile_name_stays_text():
    html = as_html("<script>", [LayerCount("<img src=x>", (2, 2), 1, 4)], ["<b>"])
    assert not re.search("<(script|img)", html) and "&lt;script&gt;" in html and "&lt;b&gt;" in html
    assert as_text("none", [], []) == "none\n  no mask"


def test_tickets_compare_by_content(tmp_path):
    ticket = ticket_of(data="digits")
    again = sm.Ticket.load(ticket.save(tmp_path / "a.ticket"))
    assert again == ticket and again is not ticket and hash(again) == hash(ticket)
    assert ticket_of(data="other") == ticket, "what is recorded of its making is not what it is"
    assert ticket != ticket_of(seed=1) and ticket != ticket_of(0.4) and ticket != "ticket"
    assert len({ticket, again, ticket_of(seed=1)}) == 2
    name = next(e.name for e in ticket.entries if e.masked)
    masks = {**ticket.masks, name: ticket.masks[name].clone()}
    masks[name][0] ^= 1
    assert dataclasses.replace(ticket, masks=masks) != ticket


def test_buffers_count():
    model = sm.create_model("resnet-20", num_classes=10, in_channels=1, image_size=8, width=0.25)
    sm.randomize_(model, seed=0, density=0.5)
    search = sm.EdgePopup(model, density=0.5, lr=0.1)
    first = search.ticket()
    next(b for name, b in model.named_buffers() if "running_mean" in name).add_(1)
    assert search.ticket() != first


def test_a_difference_counts_what_is_shared(tmp_path):
    a, b = ticket_of(0.5, run="a", deep={"x": 1}), ticket_of(0.25, seed=1, run="b", deep={"x": 2})
    found = json.loads(json.dumps(difference(a, b)))
    for layer in found["layers"]:
        ours, theirs = (t.mask()[layer["name"]].numpy() for t in (a, b))
        both = (ours & theirs).sum()
        assert layer["kept"] == [ours.sum(), theirs.sum()] and layer["both"] == both
        assert layer["overlap"] == pytest.approx(both / (ours | theirs).sum())
        assert layer["by_chance"] == pytest.approx(0.125 / 0.625, rel=1e-3)
    assert len(found["layers"]) == 3 and not found["equal"] and not found["only_here"]
    assert found["facts"] == {"density": [a.density, b.density], "run": ["a", "b"], "deep.x": [1, 2]}
    assert difference(a, a)["equal"] and not difference(a, a)["facts"]


def test_layers_of_one_ticket_alone_are_named(small_net):
    sm.randomize_(small_net, seed=0, density=0.5)
    other = sm.EdgePopup(small_net, density=0.5, lr=0.1).ticket()
    found = difference(ticket_of(), other)
    assert found["only_here"] and "conv.weight" in found["only_there"] and not found["layers"]


def test_the_command_prints_a_difference(tmp_path, capsys):
    paths = [str(t.save(tmp_path / n)) for n, t in (("a", ticket_of(run="first")), ("b", ticket_of(seed=1)))]
    assert main(["diff", *paths]) == 0
    said = capsys.readouterr().out
    assert "two networks" in said and "first" in said and "by chance" in said
    assert main(["diff", paths[0], paths[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"]


def train(model, mask, *, start, on_step, **_):
    """Stands for a training: every kept weight moves a little."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.01 * mask.get(name, torch.ones_like(parameter)))
    on_step(1)
    return {"accuracy": 0.5}


def test_every_round_of_imp_gives_its_ticket(small_net, tmp_path):
    tickets = []
    for round in sm.imp(small_net, train, rounds=2, rate=0.5):
        tickets.append(round.ticket({"data": "none"}))
        assert all(torch.equal(tickets[-1].mask()[name], kept) for name, kept in round.mask.items())
        assert torch.equal(tickets[-1].weights()["output.weight"], small_net.output.weight)
    assert [t.provenance["round"] for t in tickets] == [0, 1, 2] and not tickets[1].strong
    assert round.ticket() == tickets[2], "the last round holds after the loop"
    assert sm.Ticket.load(tickets[1].save(tmp_path / "a.ticket")) == tickets[1]


def test_a_round_that_is_over_gives_no_ticket(small_net):
    rounds = sm.imp(small_net, train, rounds=1, rate=0.5)
    first = next(rounds)
    next(rounds)
    with pytest.raises(ValueError, match="round 0 is over, and the model is that of round 1"):
        first.ticket()


def test_a_round_shows_itself_in_few_lines(small_net):
    (dense, pruned) = sm.imp(small_net, train, rounds=1, rate=0.5)
    lines = repr(pruned).splitlines()
    assert lines[0] == "Round 1 of IMP on SmallNet" and len(lines) <= 5
    assert lines[-1] == "  the training returned {'accuracy': 0.5}"
    assert len(Table(dense._repr_html_()).rows) == 1 + len(dense.mask)


@pytest.mark.parametrize("activations", [None, "int8"])
def test_packed_layers_say_what_they_hold(activations):
    model = sm.create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=32, bias=True)
    sm.randomize_(model, init="signed_constant", seed=0, density=0.25)
    packed = sm.pack(model, sm.EdgePopup(model, density=0.25, lr=0.1).ticket(), activations=activations)
    layer = packed.fc1
    held = sum(tensor.numel() * tensor.element_size() for tensor in layer.state_dict().values())
    # The lists that serve under AVX2 are a little larger.
    assert layer.nbytes == held < 4 * 1024 * 300 / (6 if ops.instruction_set() == "avx2" else 7)
    assert repr(layer) == (
        "PackedLinear(1024, 300, bias=True, weights=signs, density=0.25, "
        f"activations={activations or 'as they come'}, bytes={held})"
    )


def test_a_packed_convolution_says_what_it_holds():
    weights = torch.zeros(16, 4, 3, 3)
    weights[:, 0] = torch.randn(16, 3, 3, generator=torch.Generator().manual_seed(0))
    layer = PackedConv2d(weights, padding=1)
    assert "weights=values, density=0.25, activations=as they come" in repr(layer)
    assert f"bytes={layer.nbytes})" in repr(layer) and len(repr(layer).splitlines()) == 1
