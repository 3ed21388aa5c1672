"""What can go wrong on the way into another format."""


class ExportError(ValueError):
    """A network cannot be written in the format that was asked for; the message says why and what can be."""
