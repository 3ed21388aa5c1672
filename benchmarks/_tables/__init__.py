"""Tables of the documentation as Markdown: a module for each page, a function for each kind of table.

A function takes the document that a script wrote and its name, and returns the table with the line above it.
"""

from _tables import acceleration, comparison, examples, experiments, methods, performance, recipes, theory

PAGES = (acceleration, comparison, examples, experiments, methods, performance, recipes, theory)
KINDS = {kind: table for page in PAGES for kind, table in page.KINDS.items()}
"""Kind of a table, as a mark in a page names it → its function."""
