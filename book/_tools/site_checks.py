"""The built book in headless Chromium: how heavy, how fast, how steady, how accessible a page is.

tests/test_site.py holds the limits; audit.py prints the numbers.
"""

import contextlib
import functools
import http.server
import re
import shutil
import threading
import urllib.parse
from pathlib import Path

import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120_000  # ms that an event is waited for: it ends what hangs, and is no measure of speed
MATHJAX = "_static/mathjax/tex-svg.js"
THEME = "_static/styles/", "_static/scripts/", "_static/vendor/"  # the same on every page

# What the page reports on itself: layout shifts, and tasks that keep it from answering for over 50 ms.
_OBSERVE = """
window.shifts = []; window.blocked = [];
new PerformanceObserver(list => list.getEntries().forEach(e => e.hadRecentInput || shifts.push(e.value)))
  .observe({type: "layout-shift", buffered: true});
new PerformanceObserver(list => list.getEntries().forEach(e => blocked.push(e.startTime + e.duration)))
  .observe({type: "longtask", buffered: true});
"""
# Formulas are waited for however long a busy machine takes to draw them, so that a shift is the page's own.
_PATIENT = """
const sheet = new CSSStyleSheet();
sheet.replaceSync(".bd-article { animation-duration: 3600s !important }");
document.adoptedStyleSheets = [sheet];
"""
_UNFOLD = """
document.querySelectorAll("details").forEach(d => d.open = true);
document.querySelectorAll(".toggle-hidden").forEach(d => d.classList.remove("toggle-hidden"));
"""


def pages(toc=ROOT / "_toc.yml"):
    """The pages' names, in the book's order."""
    toc = yaml.safe_load(toc.read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *(page["file"] for chapter in chapters for page in (chapter, *chapter.get("sections", ())))]


def chromium():
    return shutil.which("chromium")


@contextlib.contextmanager
def open_chromium(playwright):
    # Chromium's sandbox does not start for root, as in most containers.
    browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"], timeout=PATIENCE)
    yield browser
    browser.close()


def patient(context):
    """A page or a context of pages whose waits end after PATIENCE only."""
    context.set_default_timeout(PATIENCE)
    return context


def only_files(page):
    """Refuse a page whatever it asks of a network. Returns the list that such addresses go into."""
    outside = []

    def answer(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    page.route("**/*", answer)
    return outside


@contextlib.contextmanager
def serve(folder, under=""):
    """Serve `folder` under a sub-path as GitHub Pages does, 404.html for what is missing; gives the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            inside = path.startswith(f"/{under}")
            return super().translate_path(path[len(under):] if inside else "/outside-of-the-book")

        def send_error(self, code, *args):
            text = (Path(folder) / "404.html").read_bytes()
            self.send_response(code)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            """Silent: a test's output is for the test."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{under}"
    server.shutdown()
    server.server_close()


# One token of each kind is enough: a chapter's code has thousands, and axe-core looks at each for a while.
_THIN = """
const seen = new Set();
for (const span of document.querySelectorAll(".highlight span[class]")) {
  const kind = span.className + (span.closest(".admonition, .cell_output")?.className ?? "");
  if (seen.has(kind) && !span.children.length) span.replaceWith(span.textContent); else seen.add(kind);
}
document.querySelectorAll(".highlight pre").forEach(pre => pre.normalize());
"""


def settle(page):
    """Wait until all formulas are drawn."""
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")


def still(page):
    """Wait until nothing fades or moves any more, and what has changed is painted and reported to observers."""
    page.wait_for_function("() => document.getAnimations().every(a => a.playState !== 'running')")
    page.evaluate("() => new Promise(d => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(d))))")


# Everything that is wider than the room it has, with its kind and whether one can scroll to the rest.
_CUT = """() => {
  const found = [];
  for (const node of document.querySelectorAll("article *")) {
    if (node.closest("mjx-container") && !node.matches("mjx-container")) continue;
    const style = getComputedStyle(node);
    if (style.overflowX === "visible" || !node.checkVisibility() || node.scrollWidth <= node.clientWidth + 1) continue;
    const screenReader = style.position === "absolute" && node.clientWidth <= 1;
    if (screenReader || style.display.startsWith("inline") && !node.clientWidth) continue;
    const kind = node.matches("pre.columns") ? "columns" : node.matches("pre") ? (node.closest(".cell_output") ? "output" : "code")
      : node.matches(".math, mjx-container") ? "formula" : node.querySelector(":scope > table") ? "table"
      : node.querySelector("img, .cell_output svg") ? "figure" : "other";
    found.push([kind, /auto|scroll/.test(style.overflowX), node.textContent.trim().slice(0, 80)]);
  }
  return found;
}"""


def cut(page):
    """What an open page shows only in part, everything unfolded: (kind, can be scrolled, how its text begins)."""
    page.evaluate(_UNFOLD)
    still(page)
    return [tuple(each) for each in page.evaluate(_CUT)]


def measure(browser, url, formulas_in_time=False):
    """Open a page as a new visitor does, once, and scroll through it.

    formulas_in_time: as where formulas are drawn before the text stops waiting for them, whatever this machine does.

    Returns a dict: `weight` (bytes of the page and all it loads, not compressed, without MathJax),
    `theme` (bytes of these that are the theme's styles, scripts and fonts), `mathjax` (bytes),
    `interactive` (s until everything is loaded, all formulas are drawn and no task blocks the page
    any more), `shift` (cumulative layout shift, no unit).
    """
    sizes = {}
    page = patient(browser.new_page())
    page.add_init_script(_OBSERVE + _PATIENT * formulas_in_time)
    page.on("response", lambda answer: sizes.__setitem__(answer.url, len(answer.body())))
    page.goto(url, wait_until="load")
    settle(page)
    ready = page.evaluate("() => performance.now()")
    still(page)  # the observers report late
    blocked = page.evaluate("() => blocked")
    loaded = page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
    _scroll(page)
    still(page)
    shift = sum(page.evaluate("() => shifts"))
    page.close()
    mathjax = sum(size for address, size in sizes.items() if MATHJAX in address)
    theme = sum(size for address, size in sizes.items() if any(part in address for part in THEME))
    interactive = max([loaded, ready, *blocked]) / 1000
    return {"weight": sum(sizes.values()) - mathjax, "theme": theme, "mathjax": mathjax,
            "interactive": interactive, "shift": shift}


def _scroll(page):
    height = page.evaluate("() => document.documentElement.scrollHeight")
    for top in range(0, height, 700):
        page.evaluate("top => scrollTo(0, top)", top)
        still(page)
    images = "() => [...document.images].filter(i => i.checkVisibility()).every(i => i.complete)"
    page.wait_for_function(images)


def axe(page):
    """axe-core's serious and critical findings on an open page, everything unfolded: a list of texts."""
    page.evaluate(_UNFOLD)
    page.evaluate(f"() => {{ {_THIN} }}")
    still(page)  # colours fade in
    # Not read again: style sheets, of which no rule that is on needs the source; a file may not ask for them.
    result = Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response
    return [
        f"{finding['impact']} {finding['id']}: {node['html'][:160]}"
        for finding in result["violations"] if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


def links(site):
    """Every link and source in the built pages: (page, address), both as written; pages relative to `site`."""
    for path in sorted(site.rglob("*.html")):
        if "_static" in path.parts:  # templates of the theme
            continue
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for tag in soup.find_all(["a", "img", "link", "script", "source"]):
            address = tag.get("href") or tag.get("src") or tag.get("srcset")
            not_yet = tag.find_parent(class_="book-pdf", hidden=True)  # until there is a PDF
            if address and not not_yet and not address.startswith("data:"):
                yield path.relative_to(site), address


@functools.cache
def _ids(path):
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', path.read_text(encoding="utf-8")))


def broken(site, page, address):
    """What is wrong with a link, "" if nothing: files and anchors inside must exist, the outside is https."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme or parts.netloc:
        host = parts.hostname or ""
        public = parts.scheme == "https" and "." in host and not re.fullmatch(r"[\d.:]+", host)
        return "" if public or parts.scheme == "mailto" else f"{page}: {address} is no public https address"
    target = site / page.parent / urllib.parse.unquote(parts.path) if parts.path else site / page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return f"{page}: {address} leads nowhere"
    fragment = urllib.parse.unquote(parts.fragment)
    if fragment and target.suffix == ".html" and fragment not in _ids(target):
        return f"{page}: {address} has no such anchor"
    return ""
