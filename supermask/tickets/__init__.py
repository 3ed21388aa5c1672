"""Tickets: a mask with what it needs to become a network, as an object and as a file."""
