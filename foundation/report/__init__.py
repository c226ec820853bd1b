"""The report of a run: one page to look at, and one picture."""

from foundation.report.page import write_report
from foundation.report.picture import write_picture

__all__ = ["write_picture", "write_report"]
