"""A subject, a level, an error or a recipe called `<script>alert(1)</script>` is shown as text and does nothing."""

import html.parser
import re

import pytest

from analysis.report.blocks import Page, Terms
from analysis.report.markdown import to_markdown
from analysis.report.page import to_html
from analysis.report.sections import compose
from tests.study import hostile
from tests.study.hostile import EVIL

PLACES = {
    "recipe", "confirmation", "coverage", "designs", "best", "references", "pictures", "maps", "tuning", "failures",
    "provenance", "reuse",
}  # fmt: skip
"""Sections that show names, of all that there are."""


@pytest.fixture(scope="module")
def page() -> Page:
    return compose(hostile.content())


def test_the_answer_comes_first(page):
    assert page.lead.startswith("Recommended: ")
    assert [section.id for section in page.sections][:2] == ["recipe", "confirmation"]
    facts = next(block for block in page.top if isinstance(block, Terms))
    assert facts.pairs[0][0] == "recommended" and page.lead.startswith(f"Recommended: {facts.pairs[0][1]}")


class _Reader(html.parser.HTMLParser):
    """Elements of a page, and the text inside each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._section = "top"
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self._section = dict(attributes)["id"] or ""

    def handle_data(self, data):
        self.texts[self._section] = self.texts.get(self._section, "") + data


def test_html_shows_hostile_names_as_text_in_every_section(page):
    text = to_html(page)
    read = _Reader(text)
    assert {name for name, words in read.texts.items() if EVIL in words} >= {"top", *PLACES}
    assert "script" not in {tag for tag, _ in read.tags}
    assert not {name for _, attributes in read.tags for name in attributes if name.startswith("on")}
    for tag, attributes in read.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, attributes)
    # A quotation mark that ends an attribute would let one in.
    assert EVIL not in text
    assert "default-src 'none'" in text


def test_markdown_shows_hostile_names_as_text_in_every_section(page):
    text, files = to_markdown(page, f"{EVIL}_files")
    assert files and not any("<" in name or "/" in name for name in files)
    # What stands between fences is code, which no reader takes for HTML; every fence is closed.
    outside, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"`{3,}", line)
        if not fence and mark:
            fence = mark[0]
        elif fence:
            fence = "" if line == fence else fence
        else:
            outside.append(line)
    assert not fence
    said = "\n".join(outside)
    assert not re.search(r"(?<!\\)<", said)
    for section in (section for section in page.sections if section.id in PLACES):
        part = said.split(f"\n## {section.title}\n")[1].split("\n## ")[0]
        assert r"\<script\>" in part, section.id


def test_figures_show_hostile_names_without_reading_them_as_formulas(page):
    # A picture that could not be drawn would have raised; each has words for those who do not see it.
    assert all(picture.alt and picture.data for picture in page.pictures())
