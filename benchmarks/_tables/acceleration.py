"""Tables of training steps that leave out zeros, in docs/performance.md."""

from typing import Any

from _tables.layout import markdown, where


def accelerated(document: dict[str, Any], _: str) -> str:
    """A search step that leaves out zeros, over a dense one."""
    columns = {
        "edge-popup": "edge-popup over dense",
        "accelerated": "**",
        "sgd accelerated": "SGD, accelerated",
    }
    return _widths(document, "rows", columns)


def accelerated_tickets(document: dict[str, Any], _: str) -> str:
    """A step of a held ticket that leaves out zeros, over a dense one."""
    return _widths(document, "tickets", {"ticket": "ticket over dense", "accelerated": "**"})


def _widths(document: dict[str, Any], group: str, columns: dict[str, str]) -> str:
    """Networks of linear layers; way → its column, in bold and of the same name for two asterisks."""
    rows = [
        [
            f"{row['width']:,}",
            f"{row['density']:g}",
            f"{row['dense']['median_ms']:.1f}",
            *(_ratio(row, way, column == "**") for way, column in columns.items()),
        ]
        for row in document[group]
    ]
    names = [way if column == "**" else column for way, column in columns.items()]
    return _accelerated(document, ["width", "density", "dense step, ms", *names], rows)


def _ratio(row: dict[str, Any] | None, way: str, bold: bool) -> str:
    return "" if row is None else f"**{row[f'{way}/dense']:.2f}**" if bold else f"{row[f'{way}/dense']:.2f}"


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
            _ratio(row, "edge-popup", False),
            _ratio(row, "accelerated", True),
            _ratio(found["ticket"].get(case), "ticket", False),
            _ratio(found["ticket"].get(case), "accelerated", True),
        ]
        for case, row in found["search"].items()
    ]
    head = ["network", "batch", "density", "dense step, ms", "edge-popup over dense", "accelerated", "ticket"]
    return _accelerated(document, [*head, "ticket, accelerated"], rows)


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
