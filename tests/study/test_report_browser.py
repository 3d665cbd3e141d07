"""The page in a browser: what it shows at desktop and phone width, in light and dark, and what it does not do."""

import base64
import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from analysis import render
from tests.study import hostile
from tests.study.hostile import EVIL

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(sys.platform == "win32", reason="talks to the browser through inherited pipes"),
]


class Browser:
    """Chromium, spoken to by its DevTools protocol over pipes: JSON, a zero byte after each message."""

    def __init__(self, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The browser reads commands from its descriptor 3 and answers on 4.
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._reads, self._writes = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self._last = 0
        self.events: list[dict] = []
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self._writes.write(json.dumps(message).encode() + b"\0")
        self._writes.flush()
        while True:
            heard = self._hear()
            if heard.get("id") == self._last:
                assert "error" not in heard, heard["error"]
                return heard["result"]

    def _hear(self) -> dict:
        data = bytearray()
        while (byte := self._reads.read(1)) != b"\0":
            assert byte, "the browser ended"
            data += byte
        heard = json.loads(data)
        if "method" in heard:
            self.events.append(heard)
        return heard

    def open(self, page: Path, width: int, scheme: str) -> None:
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._hear()

    def ask(self, expression: str):
        """Evaluate JavaScript from outside the page, so that its policy does not forbid it; wait for promises."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def said(self, *methods: str) -> list[dict]:
        return [event["params"] for event in self.events if event["method"] in methods]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._writes.close()
        self._reads.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page with every section, whose names are as hostile as names can be."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render(hostile.content()), encoding="utf-8")
    return file


# Everything that sticks out of the window and is not inside something that scrolls by itself.
STICKS_OUT = """
[...document.querySelectorAll("body *")].filter(e => !e.closest(".wide, .frame, pre") && !e.closest(".skip")
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))
"""
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"
# Of each figure: is it there, how wide is it shown, and how wide was it made for.
FIGURES = """
[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.getBoundingClientRect().width, i.width, i.alt,
    Number(i.getAttribute("width"))])
"""
# Text that is too small or whose colour is too near its background's, by WCAG's contrast of 4.5.
FAINT = """
(() => {
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => parts(c).slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (parts(c).length < 4 || parts(c)[3] > 0) return c; } return "rgb(255, 255, 255)"; };
  const spoken = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  return [...document.querySelectorAll("body *")].filter(spoken)
    .map(e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
      return [e.tagName, e.className, (a + .05) / (b + .05), parseFloat(getComputedStyle(e).fontSize)]; })
    .filter(f => f[2] < 4.5 || f[3] < 12);
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_quiet_fits_and_can_be_read(browser, page, width, scheme):
    browser.open(page, width, scheme)
    assert browser.ask("window.innerWidth") == width
    dark = browser.ask("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for folded in (True, False):
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask(STICKS_OUT) == []
        assert browser.ask(FAINT) == []
        if folded:
            browser.ask(OPEN_ALL)
    figures = browser.ask(FIGURES)
    assert len(figures) >= 10
    for there, shown, _, alt, made in figures:
        assert there and alt
        # Figures are made with 8 point letters, 11.7 pixels at their full width: never below 9 of them.
        assert shown >= min(0.77 * made, 620) or shown >= 0.8 * made, alt
    asked = {params["request"]["url"].split(":")[0] for params in browser.said("Network.requestWillBeSent")}
    assert asked <= {"file", "data"}
    assert sum(p["request"]["url"].startswith("file") for p in browser.said("Network.requestWillBeSent")) == 1
    assert browser.said("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []


# Rules of axe-core that an element breaks, those of WCAG and its best practices, with the elements.
AXE = """
axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations
    .filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => [v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))]))
"""
# What the test itself breaks, to see that it would be found.
BROKEN = """
document.body.insertAdjacentHTML("beforeend",
    '<img src="data:,"><p style="color: #999; background: #fff">faint words</p>')
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(browser, page, width, scheme):
    browser.open(page, width, scheme)
    browser.ask(OPEN_ALL)
    browser.ask(f"{files('axe_core_python').joinpath('axe.min.js').read_text(encoding='utf-8')}; 0")
    assert browser.ask(AXE) == []
    assert browser.ask("axe.run(document).then(found => found.passes.length)") > 20
    browser.ask(BROKEN)
    assert {rule for rule, _ in browser.ask(AXE)} == {"image-alt", "color-contrast"}


def test_hostile_names_are_text_and_run_nothing(browser, page):
    browser.open(page, 1280, "light")
    assert browser.said("Page.javascriptDialogOpening") == []
    assert browser.ask("document.scripts.length") == 0
    assert EVIL in browser.ask("document.querySelector('h1').textContent")
    assert browser.ask("document.title") == f"Study {EVIL}"


def test_the_keyboard_reaches_the_skip_link_first_and_sees_where_it_is(browser, page):
    browser.open(page, 1280, "light")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().top") >= 0
    assert float(browser.ask("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")) >= 2


def test_it_prints(browser, page):
    browser.open(page, 1280, "dark")
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF") and 3 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 60
