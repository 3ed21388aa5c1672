"""The colours of methods, by family: one on light ground, one on dark.

Hues of Okabe and Ito first, which colour-blind readers can tell apart. Slate, grey, sand and tan, which
differ in lightness, are for controls.
"""

FAMILIES = {
    "ink": ("#15191e", "#eef1f4"),
    "vermilion": ("#d55e00", "#ff8b45"),
    "blue": ("#0072b2", "#58acf0"),
    "sky": ("#56b4e9", "#a5dcff"),
    "green": ("#009e73", "#35c79c"),
    "pink": ("#cc79a7", "#e3a0c6"),
    "orange": ("#e69f00", "#f7c04a"),
    "teal": ("#44aa99", "#6fd3c2"),
    "brown": ("#8a5a2b", "#c9935c"),
    "violet": ("#5e3c99", "#ae8df0"),
    "red": ("#b2182b", "#f2707c"),
    "slate": ("#59636e", "#b4bec9"),
    "grey": ("#87909a", "#8d97a2"),
    "sand": ("#a59c8a", "#c4b998"),
    "tan": ("#a97f5f", "#bf9575"),
    "wine": ("#882255", "#d4709f"),
    "forest": ("#117733", "#53b874"),
    "olive": ("#999933", "#c4c45c"),
    "purple": ("#aa4499", "#d57fc7"),
    "indigo": ("#332288", "#9a8cf0"),
}
"""Family → its colour on light ground, and on dark ground."""

DARK = dict(FAMILIES.values())
"""Colour on light ground → on dark ground."""
