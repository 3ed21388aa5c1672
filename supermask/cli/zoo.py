"""`supermask zoo`: the tickets that ship with the library; without torch."""

import argparse
import json
from typing import Any

from supermask.cli.columns import print_columns


def run_zoo(options: argparse.Namespace) -> None:
    """Print the tickets with what matters of their cards, or one card whole."""
    from supermask.zoo import list_tickets, ticket_card

    if options.name is not None:
        card = ticket_card(options.name)
        print(json.dumps(card, ensure_ascii=False, indent=None if options.json else 2))
        return
    cards = [ticket_card(name) for name in list_tickets()]
    if options.json:
        print(json.dumps(cards, ensure_ascii=False))
        return
    print_columns([_row(card) for card in cards], titled=True)
    print('`supermask.load("zoo:NAME")` loads one; `supermask zoo NAME` prints its card')


def _row(card: dict[str, Any]) -> dict[str, str]:
    return {
        "name": card["name"],
        "accuracy": f"{100 * card['accuracy']:.2f} %",
        "bytes": str(card["bytes"]),
        "seed": str(card["seed"]),
        "recipe": card["recipe"],
    }
