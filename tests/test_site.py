"""The built book in a real browser, with everything outside this machine out of reach."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
NOTEBOOKS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]
CHROMIUM = shutil.which("chromium")
# What the theme itself reports on every page: it adds its script for live code twice, and a first visit
# has no stored colour mode.
OF_THE_THEME = ("Identifier 'THEBE_JS_URL' has already been declared", "Got invalid theme mode: . Resetting to auto.")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path to open the built site with")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with FileLock(tmp_path_factory.getbasetemp().parent / "site.lock"):  # the tests run in several processes
        if not (HTML / "index.html").exists():
            command = [sys.executable, "-m", "jupyter_book.cli.main", "build", str(ROOT), "-W", "-n", "--keep-going"]
            subprocess.run(command, check=True)
    return HTML.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, as in most containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """An open page, the errors it reported, and the outside addresses it asked for."""

    def __init__(self, browser, url, **options):
        self.errors, self.outside = [], []
        self.page = browser.new_page(**options)
        self.page.route("**/*", self._only_files)
        self.page.on("pageerror", lambda error: self._error(str(error)))
        self.page.on("console", self._console)
        self.page.goto(url)
        self.page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")  # formulas are drawn

    def _only_files(self, route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def _console(self, message):
        blocked = message.location.get("url", "") in self.outside
        if message.type == "error" and not blocked:
            self._error(message.text)

    def _error(self, text):
        if text not in OF_THE_THEME:
            self.errors.append(text)


@pytest.fixture
def visit(browser, site):
    visits = []

    def open_page(page, **options):
        visits.append(Visit(browser, f"{site}/{page}.html", **options))
        return visits[-1]

    yield open_page
    for each in visits:
        each.page.close()


@pytest.mark.parametrize("page", PAGES)
def test_page_is_whole_without_a_network(visit, page):
    seen = visit(page)
    assert seen.page.locator("article h1").count() == 1
    assert seen.errors == []
    assert seen.outside == []
    broken = "images => images.filter(i => i.complete && !i.naturalWidth && i.checkVisibility()).map(i => i.src)"
    assert seen.page.locator("article img").evaluate_all(broken) == []
    formulas, rendered = (seen.page.locator(f"article {css}").count() for css in (".math", ".math mjx-container"))
    assert rendered >= formulas
    assert seen.page.locator("mjx-merror, [data-mjx-error]").count() == 0


@pytest.mark.parametrize("page", PAGES)
def test_page_fits_a_phone(visit, page):
    seen = visit(page, viewport={"width": 390, "height": 844})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_explorables_follow_the_keyboard(visit, page):
    seen = visit(page)
    roots = seen.page.locator(".hessinit-explore")
    assert roots.count() >= 1
    for root in roots.all():
        image = root.locator("img")
        assert image.evaluate("i => i.naturalWidth") > 0
        for control, key in (("input[type=range]", "ArrowRight"), ("select", "ArrowDown")):
            for each in root.locator(control).all():
                before = image.get_attribute("src")
                each.focus()
                each.press(key)
                changed = "([image, before]) => image.src !== before && image.complete && image.naturalWidth > 0"
                seen.page.wait_for_function(changed, arg=[image.element_handle(), before], timeout=5000)
    assert seen.errors == []


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_explorables_follow_the_theme(visit, page):
    seen = visit(page)
    image = seen.page.locator(".hessinit-explore img").first
    before = image.get_attribute("src")
    theme = seen.page.evaluate("document.documentElement.dataset.theme")
    other = "light" if theme == "dark" else "dark"
    seen.page.evaluate("theme => { document.documentElement.dataset.theme = theme }", other)
    seen.page.wait_for_function("([i, before]) => i.src !== before", arg=[image.element_handle(), before], timeout=5000)
