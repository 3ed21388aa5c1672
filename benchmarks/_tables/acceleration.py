"""Tables of training steps that leave out zeros, in docs/performance.md."""

from typing import Any, NamedTuple

from _tables.layout import markdown, where


class Column(NamedTuple):
    """Steps of one kind, over dense ones."""

    way: str
    """Its name in the document."""
    title: str
    bold: bool = False

    def cell(self, row: dict[str, Any] | None) -> str:
        """Empty where nothing was measured."""
        if row is None:
            return ""
        ratio = f"{row[f'{self.way}/dense']:.2f}"
        return f"**{ratio}**" if self.bold else ratio


SEARCH = Column("edge-popup", "edge-popup over dense"), Column("accelerated", "accelerated", bold=True)
TICKET = Column("ticket", "ticket over dense"), Column("accelerated", "accelerated", bold=True)


def accelerated(document: dict[str, Any], _: str) -> str:
    """A search step that leaves out zeros, over a dense one."""
    return _widths(document, "rows", *SEARCH, Column("sgd accelerated", "SGD, accelerated"))


def accelerated_tickets(document: dict[str, Any], _: str) -> str:
    """A step of a held ticket that leaves out zeros, over a dense one."""
    return _widths(document, "tickets", *TICKET)


def _widths(document: dict[str, Any], group: str, *columns: Column) -> str:
    """Networks of linear layers."""
    rows = [
        [
            f"{row['width']:,}",
            f"{row['density']:g}",
            f"{row['dense']['median_ms']:.1f}",
            *(column.cell(row) for column in columns),
        ]
        for row in document[group]
    ]
    head = ["width", "density", "dense step, ms", *(column.title for column in columns)]
    return _accelerated(document, head, rows)


def accelerated_networks(document: dict[str, Any], _: str) -> str:
    """The same of networks of convolutions, a search and a ticket, each beside dense steps of its own."""
    found = {
        kind: {(r["network"], r["batch"], r["density"]): r for r in document["networks"] if r["kind"] == kind}
        for kind in ("search", "ticket")
    }
    rows = [
        [
            case[0],
            f"{case[1]}",
            f"{case[2]:g}",
            f"{row['dense']['median_ms']:,.0f}",
            *(column.cell(row) for column in SEARCH),
            *(column.cell(found["ticket"].get(case)) for column in TICKET),
        ]
        for case, row in found["search"].items()
    ]
    head = ["network", "batch", "density", "dense step, ms", *(column.title for column in SEARCH)]
    return _accelerated(document, [*head, "ticket", "ticket, accelerated"], rows)


def _accelerated(document: dict[str, Any], head: list[str], rows: list[list[str]]) -> str:
    place = where(document["machine"], "accelerated_step")
    if document.get("clock") == "cpu":
        place = place.removesuffix("`") + " --clock cpu`"
    instructions = document["instructions"].replace("avx", "AVX").replace("AVX512", "AVX-512")
    batches = f", batches of {document['rows'][0]['batch']}" if "batch" not in head else ""
    return f"{place}; {instructions}{batches}\n\n" + markdown(head, rows)


KINDS = {
    "accelerated": accelerated,
    "accelerated_tickets": accelerated_tickets,
    "accelerated_networks": accelerated_networks,
}
