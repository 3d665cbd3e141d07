"""The page: self-contained, complete, readable by all, and as Markdown."""

import base64
import html.parser
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import anova, render
from analysis.figures import PictureRow, new_figure
from analysis.report import sections
from analysis.report.blocks import Code, Page, Picture, Table, Text
from analysis.report.content import Gallery, Maps, Snippet, Tuning
from analysis.report.drawings import file_name
from analysis.report.markdown import to_markdown
from analysis.report.page import to_html
from analysis.report.sections import compose
from analysis.report.tuning import listing
from tests.analysis.reported import _content, _failing, blocks, leave_figures_out, whole


@pytest.fixture(autouse=True)
def without_figures(request, monkeypatch):
    """Figures take most of a page's time: only the tests that ask for one of the two fixtures below make them."""
    if "drawn_for_true" in request.fixturenames:
        return
    if "laid_out" in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"a figure"))
        return
    leave_figures_out(monkeypatch)


@pytest.fixture
def drawn_for_true():
    """Figures are drawn."""


@pytest.fixture
def laid_out():
    """Figures are made, but not drawn."""


def test_the_page_is_one_file_with_every_section(drawn_for_true):
    page = render(_content())
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page) and "@import" not in page and "<script" not in page
    assert "Which &lt;position&gt; matters" in page and "<position>" not in page
    for words in ("What makes a difference", "Every design compared", "One factor at a time", "Against the references",
                  "Pictures, best to worst", "Quality against size", "No trial failed", "assumptions", "0123abc",
                  "What matters most", "Interactions", "Which may be the best", "what to buy more of",
                  "Do the other scores agree?", "What was run", "How this was computed"):  # fmt: skip
        assert words in page, words
    assert page.count("data:image/png;base64,") == 13 and page.count("data:image/webp;base64,") == 1
    assert "3 components" in page and "of 9" in page and "of 54" in page


def test_the_numbers_on_the_page_are_the_table_s():
    content = _content()
    table = anova(content.frame, "clip_i", ["input", "output"], content.blocks, error="residual", pair=content.pair)
    page = to_html(whole())
    for term in ("pair", "input", "output"):
        row = table[term]
        assert f"{row.F:.2f}" in page and f"{row.omega_sq:.3f}" in page


def test_a_study_that_cannot_be_tested_still_has_its_page():
    frame = _content().frame
    page = render(_content(frame=frame.iloc[:20:5], galleries=[], references=None))
    assert "There is no analysis of variance" in page and "fewer than the model" in page
    assert "cannot be told apart yet" in page and not re.search(r"\bnan\b", page.split("<main")[1].split("<section")[0])
    saturated = render(_content(frame=frame.iloc[:4], galleries=[], references=None))
    assert "no residual is left" in saturated and "cannot be tested" in saturated
    empty = render(_content(frame=frame.assign(clip_i=np.nan)))
    assert "No trial has a clip_i yet" in empty


def test_failures_are_listed_and_counted():
    failures = pd.DataFrame({"design": ["SA_in → SA_in"], "status": ["diverged"], "error": ["loss <nan> at step 3"]})
    page = render(_content(failures=failures, counts={"planned": 81, "done": 80, "diverged": 1}))
    assert "loss &lt;nan&gt; at step 3" in page and "1 diverged" in page and "80 of 81" in page


def _tuning() -> Tuning:
    # Two groups by method and budget, two rates and two batches; full sets its batch by hand; lora's best is at the
    # edge of the rates, full waits for a trial, and everything of dora diverged.
    rows = [
        ("lora", "0.05", 1e-4, 1, 0.5, 2, 2, 0, False, False),
        ("lora", "0.05", 1e-3, 1, np.nan, 2, 1, 1, False, False),
        ("lora", "0.05", 1e-4, 2, 0.625, 2, 2, 0, True, True),
        ("lora", "0.05", 1e-3, 2, 0.25, 2, 2, 0, False, False),
        ("full", "absent", 1e-4, np.nan, 0.75, 2, 2, 0, False, False),
        ("full", "absent", 1e-3, np.nan, np.nan, 2, 1, 0, False, False),
        ("dora", "0.05", 1e-4, 1, np.nan, 2, 0, 2, False, False),
    ]
    columns = [
        "method",
        "budget",
        "learning_rate",
        "batch",
        "clip_i",
        "planned",
        "done",
        "diverged",
        "chosen",
        "at_edge",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return Tuning(frame, ("method", "budget"), ("learning_rate", "batch"), ["subject/cake"])


def test_the_table_of_the_tuning_has_a_row_a_group_and_a_column_a_grid_point():
    table, notes = listing(_tuning(), "clip_i")
    assert table.set_index("method").T.to_dict() == {
        "lora": {"budget": "0.05", "learning_rate 0.0001, batch 1": "0.500",
                 "learning_rate 0.001, batch 1": "1 of 2 diverged", "learning_rate 0.0001, batch 2": "0.625 ●",
                 "learning_rate 0.001, batch 2": "0.250", "learning_rate 0.0001": "", "learning_rate 0.001": ""},
        "full": {"budget": "absent", "learning_rate 0.0001, batch 1": "", "learning_rate 0.001, batch 1": "",
                 "learning_rate 0.0001, batch 2": "", "learning_rate 0.001, batch 2": "",
                 "learning_rate 0.0001": "0.750", "learning_rate 0.001": "–"},
        "dora": {"budget": "0.05", "learning_rate 0.0001, batch 1": "2 of 2 diverged",
                 "learning_rate 0.001, batch 1": "", "learning_rate 0.0001, batch 2": "",
                 "learning_rate 0.001, batch 2": "", "learning_rate 0.0001": "", "learning_rate 0.001": ""},
    }  # fmt: skip
    edge, waits, nothing = notes
    assert "method lora, budget 0.05" in edge and "learning_rate 0.0001, batch 2, lies on the edge" in edge
    assert "method full, budget absent: nothing is chosen yet" in waits
    assert "method dora, budget 0.05: nothing can be chosen" in nothing


def test_the_page_shows_the_tuning_where_there_is_one():
    page = render(_content(tuning=_tuning()))
    assert "What was tuned first" in page and "on subject/cake" in page and "0.625 ●" in page
    assert page.count("widen the grid") == 1
    assert "tuning" not in {section.id for section in whole().sections}


@pytest.mark.parametrize("rows", [1, 2, 5, 21, 55])
def test_a_study_stopped_at_any_moment_has_a_page(rows, laid_out):
    """Trials run seed by seed, task by task, as a study runs them."""
    frame = _content().frame.sort_values(["seed", "task"], kind="stable").head(rows)
    page = render(_content(frame=frame, counts={"planned": 80, "done": rows, "missing": 80 - rows}))
    assert f"{80 - rows} of 80 planned trials have not been run" in page
    body = re.sub(r'src="[^"]*"', "", page.split("<body>")[1])
    assert not re.search(r"\bnan\b|\binf\b", body)


def maps(count: int = 1, side: float = 2.0) -> list[Maps]:
    """Figures of noise, which no format makes small, an inch and more wide."""

    def draw() -> Figure:
        figure = new_figure(side, side)
        figure.subplots().imshow(np.random.default_rng(0).random((200, 200)), interpolation="nearest")
        return figure

    numbers = pd.DataFrame({"number": ["entropy"], "before": [0.5]})
    return [Maps(f"map {k}", f"attention {k}", "Brighter is more.", draw, "Short.", ["At length."], numbers, "Numbers")
            for k in range(count)]  # fmt: skip


def test_maps_and_code_come_in_their_places_when_given():
    page = compose(_content(maps=maps(), reuse=[Snippet("Again:", "shell", "adapter-study run quick\n")]))
    ids = [section.id for section in page.sections]
    assert ids.index("pictures") + 1 == ids.index("maps") and ids[-1] == "reuse"
    (code,) = blocks(page, "reuse", Code)
    assert code.code == "adapter-study run quick\n"
    assert [text.words for text in blocks(page, "maps", Text)] == ["Short."]
    assert blocks(page, "maps", Table)[0].rows[0].cells == ("entropy", "0.500")
    assert {"recipe", "confirmation", "maps", "reuse"} & {section.id for section in whole().sections} == set()


def test_why_there_are_no_maps_is_said():
    (said,) = blocks(compose(_content(maps_fault="No weights were kept.")), "maps", Text)
    assert said.words == "No weights were kept."


def test_the_page_stays_below_ten_megabytes_whatever_galleries_and_maps_there_are(monkeypatch, drawn_for_true):
    # Base64 takes 4 bytes for 3; galleries may take MOST_BYTES and maps half of that.
    assert 1.5 * sections.MOST_BYTES * 4 / 3 < 9_000_000
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 64, 3)).astype(np.uint8) for _ in range(8)]
    gallery = Gallery("subject/noise", noise[:5], [PictureRow("a", 0.5, noise)] * 7)
    monkeypatch.setattr(sections, "MOST_BYTES", 600_000)
    content = _content(galleries=[gallery] * 4, maps=maps(4))
    parts = sections._galleries(content), sections._maps(content)
    sizes = [sum(len(block.data) for block in part if isinstance(block, Picture)) for part in parts]
    assert 0 < sizes[0] <= 600_000 and 0 < sizes[1] <= 300_000
    said = " ".join(block.words for part in parts for block in part if isinstance(block, Text))
    assert said.count("left out, so that the page stays small") == 2


def test_names_with_dollars_and_backslashes_do_not_stop_the_figures(drawn_for_true):
    frame = _content().frame
    frame["input"] = frame["input"].replace("CA_out", r"$\foo{$")
    frame["task"] = frame["task"].replace("subject/robot", "$x_1$ & <b>")
    page = render(_content(frame=frame, pair=None, factors=["input"], references=None, galleries=[]))
    assert r"$\foo{$" in page and "<b>" not in page


class _Reader(html.parser.HTMLParser):
    """What a screen reader would trip over: pictures without words, headings that skip, tables without names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, *tags: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag in tags]


def test_the_page_can_be_read_by_ear_and_by_keyboard():
    reader = _Reader()
    reader.feed(render(_failing(tuning=_tuning(), reuse=[Snippet("Again:", "shell", "adapter-study run quick")])))
    assert reader.of("html")[0]["lang"] == "en" and len(reader.of("title")) == 1
    assert all(image["alt"] for image in reader.of("img"))
    for landmark in ("main", "nav", "header", "h1"):
        assert len(reader.of(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in reader.of("a")]
    assert links[0] == "#main" and {link[1:] for link in links} <= set(ids)
    assert {section["aria-labelledby"] for section in reader.of("section")} <= set(ids)
    assert len(reader.of("caption")) == len(reader.of("table")) > 4
    assert {th["scope"] for th in reader.of("th")} == {"row", "col"}
    scrolling = [a for _, a in reader.tags if set(a.get("class", "").split()) & {"wide", "large"}]
    assert scrolling and all(a["tabindex"] == "0" and a["aria-label"] and a["role"] == "group" for a in scrolling)


def _light(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_its_ground_in_light_dark_and_print():
    style = re.search("<style>(.*?)</style>", to_html(whole()), re.S)
    assert style
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", found)) for found in
              re.findall(r":root {([^}]*)}", style[1])]  # fmt: skip
    assert len(themes) == 3
    for theme in themes:
        for ink in ("ink", "muted", "accent"):
            for ground in ("paper", "tint"):
                bright, dark = sorted((_light(theme[ink]), _light(theme[ground])), reverse=True)
                # 4.5 is WCAG's AA for text.
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, theme)
        bright, dark = sorted((_light(theme["ink"]), _light(theme["warn"])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_markdown_has_every_section_and_its_figures_as_files(drawn_for_true):
    content = _failing(reuse=[Snippet("Again:", "shell", "adapter-study run quick\n")])
    page = compose(content)
    text, files = to_markdown(page, "my report_files")
    for section in page.sections:
        assert f"\n## {section.title}\n" in text
    linked = re.findall(r"\]\(my%20report_files/([^)]+)\)", text)
    assert linked == list(files) and len(files) == len(list(page.pictures())) > 8
    assert all(data.startswith(b"\x89PNG") for data in files.values())
    assert "```sh\nadapter-study run quick\n```" in text
    # Every table has as many cells in each row.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    hostile = Page("<script>", "a | b", (), ())
    assert to_markdown(hostile, "f")[0] == "# \\<script\\>\n\na \\| b\n"
    # The page holds the same figures; those of pictures are in a smaller format there.
    inside = re.findall(r"data:image/([a-z]+);base64,([^\"]+)", to_html(page))
    assert [(base64.b64decode(data) == file) for (_, data), file in zip(inside, files.values(), strict=True)] == [
        kind == "png" for kind, _ in inside
    ]


def test_names_of_files_are_plain():
    assert file_name("pictures <script>alert(1)</script>/../x") == "pictures-script-alert-1-script-x"
    assert file_name("$$$") == "figure"
