"""Reports: one self-contained page and three figures from a document of results."""

from supermask.report.headline import headline as headline
from supermask.report.html import write_report as write_report
from supermask.report.summary import summary_table as summary_table
