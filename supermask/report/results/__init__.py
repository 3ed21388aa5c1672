"""What a document of results says, reduced to what a report shows.

`Results` is built once and handed to figures, headline and page.
"""

from supermask.report.results.model import Results

__all__ = ["Results"]
