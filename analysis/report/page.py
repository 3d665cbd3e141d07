"""The report as one HTML page that needs no other file: style and pictures are in it."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis.report.blocks import Page
from analysis.report.content import ReportContent
from analysis.report.sections import compose


def render(content: ReportContent) -> str:
    """Return a report as one self-contained HTML page.

    Parameters
    ----------
    content : ReportContent
        All that the page shows. What cannot be tested or is not given is said or left out, never invented.
    """
    return to_html(compose(content))


def to_html(page: Page) -> str:
    """Write a page as HTML; all text is escaped, and a policy in the page forbids every request and script."""
    environment = Environment(
        loader=PackageLoader("analysis", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template("page.html.j2").render(page=page)
