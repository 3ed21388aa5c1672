"""Tables of training steps that leave out zeros, in docs/performance.md."""

from typing import Any

from _tables.layout import markdown, where


def accelerated(document: dict[str, Any], _: str) -> str:
    """A search step that leaves out zeros, over a dense one."""
    rows = [
        [
            f"{row['width']:,}",
            f"{row['density']:g}",
            f"{row['dense']['median_ms']:.1f}",
            f"{row['edge-popup/dense']:.2f}",
            f"**{row['accelerated/dense']:.2f}**",
            f"{row['sgd accelerated/dense']:.2f}",
        ]
        for row in document["rows"]
    ]
    head = ["width", "density", "dense step, ms", "edge-popup over dense", "accelerated", "SGD, accelerated"]
    return _accelerated(document, head, rows)


def accelerated_tickets(document: dict[str, Any], _: str) -> str:
    """A step of a held ticket that leaves out zeros, over a dense one."""
    rows = [
        [
            f"{row['width']:,}",
            f"{row['density']:g}",
            f"{row['dense']['median_ms']:.1f}",
            f"{row['ticket/dense']:.2f}",
            f"**{row['accelerated/dense']:.2f}**",
        ]
        for row in document["tickets"]
    ]
    head = ["width", "density", "dense step, ms", "ticket over dense", "accelerated"]
    return _accelerated(document, head, rows)


def accelerated_networks(document: dict[str, Any], _: str) -> str:
    """The same of a network of convolutions, for a search and a ticket."""
    ways = ("edge-popup", "accelerated", "ticket", "ticket accelerated")
    rows = [
        [
            row["network"],
            f"{row['batch']}",
            f"{row['density']:g}",
            f"{row['dense']['median_ms']:,.0f}",
            *(
                f"**{row[f'{way}/dense']:.2f}**" if "accelerated" in way else f"{row[f'{way}/dense']:.2f}"
                for way in ways
            ),
        ]
        for row in document["networks"]
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
