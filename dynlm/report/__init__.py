"""The report: one page that needs no network, the figures as PNG, and the numbers as JSON."""

from ._figures import Drawn as Drawn
from ._figures import draw as draw
from ._schema import FORMAT as FORMAT
from ._schema import check as check
from ._write import write_report as write_report
