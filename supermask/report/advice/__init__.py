"""What a document of results says to do next: findings, each with the command that tests its remedy.

`rules` holds the findings and the thresholds they rest on, `cases` what they look at, `commands` how a
command line is made from a recorded configuration.
"""

from supermask.report.advice.advise import Advice, advise

__all__ = ["Advice", "advise"]
