"""The weights of a network: which parameter is what, and what a seed makes of it."""
