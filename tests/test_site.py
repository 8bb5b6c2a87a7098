"""The built book in a real browser, with everything outside this machine out of reach."""

import datetime
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pdf
import pytest
import site_checks
import walk
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PAGES = site_checks.pages()
NOTEBOOKS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]
AND_SEARCH = [*PAGES, "search"]
SCHEMES = ["light", "dark"]
CHAPTERS = [page for page in NOTEBOOKS if page != "book/results"]  # those with sliders
BUILD = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT), "-W", "-n", "--keep-going"]
# What the theme itself reports on every page: a first visit has no stored colour mode.
OF_THE_THEME = ("Got invalid theme mode: . Resetting to auto.",)

NO_BROWSER = "no `chromium` on the path to open the built site with"
pytestmark = pytest.mark.skipif(not site_checks.chromium(), reason=NO_BROWSER)


@pytest.fixture(scope="module")
def folder():
    if not (HTML / "index.html").exists():
        subprocess.run(BUILD, check=True)
    return HTML


@pytest.fixture(scope="module")
def site(folder):
    return folder.as_uri()


@pytest.fixture(scope="module")
def served(folder):
    with site_checks.serve(folder) as address:
        yield address


class Visit:
    """An open page, the errors it reported, and the outside addresses it asked for."""

    def __init__(self, browser, url, **options):
        self.errors = []
        self.page = site_checks.patient(browser.new_page(**options))
        self.outside = site_checks.only_files(self.page)
        self.page.on("pageerror", lambda error: self._error(str(error)))
        self.page.on("console", self._console)
        self.page.goto(url)
        site_checks.settle(self.page)

    def resize(self, width, height):
        self.page.set_viewport_size({"width": width, "height": height})

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
        visits.append(Visit(browser, f"{site}/{page}", **options))
        return visits[-1]

    yield open_page
    for each in visits:
        each.page.close()


@pytest.fixture(scope="module")
def seen(browser, site, request):
    """A page, opened once for all its tests, which pytest runs in a row: most of their time is drawing formulas."""
    visit = Visit(browser, f"{site}/{request.param}.html")
    yield visit
    visit.page.close()


def see(pages):
    return pytest.mark.parametrize("seen", pages, indirect=True)


@see(PAGES)
def test_page_is_whole_without_a_network(seen):
    assert seen.page.locator("article h1").count() == 1
    seen.page.evaluate("() => [...document.images].forEach(i => i.loading = 'eager')")
    seen.page.wait_for_function("() => [...document.images].filter(i => i.checkVisibility()).every(i => i.complete)")
    broken = "images => images.filter(i => !i.naturalWidth && i.checkVisibility()).map(i => i.src)"
    assert seen.page.locator("article img").evaluate_all(broken) == []
    assert seen.errors == []
    assert seen.outside == []
    formulas, rendered = (seen.page.locator(f"article {css}").count() for css in (".math", ".math mjx-container"))
    assert rendered >= formulas
    assert seen.page.locator("mjx-merror, [data-mjx-error]").count() == 0


@see(PAGES)
def test_page_fits_a_phone(seen):
    seen.resize(390, 844)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    # Figures scroll by themselves: at the page's width their text would be too small to read.
    shrunk = "images => images.filter(i => i.width < Math.min(i.getAttribute('width'), 540)).map(i => i.alt)"
    assert seen.page.locator("article .cell_output img").evaluate_all(shrunk) == []
    beyond = "links => links.filter(a => a.scrollWidth > a.clientWidth).map(a => a.innerText)"
    assert seen.page.locator(".prev-next-area a").evaluate_all(beyond) == []
    narrow = "captions => captions.filter(c => c.clientWidth < 300).map(c => c.innerText)"
    assert seen.page.locator("article .hessinit-table.words caption").evaluate_all(narrow) == []


@see(PAGES)
def test_nothing_is_cut(seen):
    """On a desk all is seen at once; on a phone code is wrapped, and what has columns scrolls by itself."""
    for width in (1440, 1280):
        seen.resize(width, 900)
        assert site_checks.cut(seen.page) == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.resize(390, 844)
    wide = site_checks.cut(seen.page)
    assert {kind for kind, *_ in wide} <= {"columns", "table", "formula", "figure"}, wide
    assert all(scrolls for _, scrolls, _ in wide), wide


def test_what_is_cut_is_found(browser):
    """The test above could pass because nothing was measured."""
    page = browser.new_page()
    long = "x" * 500
    page.set_content(f"<article><pre style='overflow:auto'>{long}</pre><pre style='overflow:hidden'>{long}</pre>"
                     f"<div style='overflow:auto'><table><td>{long}</table></div>"
                     f"<pre style='overflow:auto; white-space:pre-wrap; overflow-wrap:anywhere'>{long}</pre></article>")
    found = [(kind, scrolls) for kind, scrolls, _ in site_checks.cut(page)]
    page.close()
    assert found == [("code", True), ("code", False), ("table", True)]


def test_a_line_that_is_wrapped_is_copied_as_one(visit):
    seen = visit(f"{NOTEBOOKS[0]}.html", viewport={"width": 390, "height": 844})
    copied, stored = seen.page.locator("article .cell_input pre:visible").first.evaluate("""pre => {
      getSelection().selectAllChildren(pre);
      return [getSelection().toString(), pre.textContent];
    }""")
    assert copied.strip() == stored.strip() and "\n" in stored.strip()


@pytest.mark.parametrize("page", PAGES)
def test_chapters_and_only_they_are_numbered(folder, page):
    """The number is that of the file: in the page's title, its window's title, and the side bar."""
    soup = BeautifulSoup((folder / f"{page}.html").read_text(), "html.parser")
    number = re.match(r"book/(\d\d)-|", page)[1]
    shown = f"{int(number)}. " if number else ""
    for text in (soup.title.get_text(), soup.article.h1.get_text(),
                 soup.select("nav.bd-links li.current > a")[-1].get_text().strip()):
        assert re.match(r"(\d+\. )?", text)[0] == shown
    assert not soup.article.select("h2 .section-number, h3 .section-number")


def test_references_by_title_have_the_chapters_number(folder):
    soup = BeautifulSoup((folder / f"{PAGES[0]}.html").read_text(), "html.parser")
    links = {a["href"]: a.get_text() for a in soup.article.select("table a")}
    for page in PAGES:
        if number := re.match(r"book/(\d\d)-", page):
            assert links[f"{page.removeprefix('book/')}.html"].startswith(f"{int(number[1])}. ")


@pytest.mark.parametrize("page", [PAGES[0], NOTEBOOKS[0], "search"])
def test_one_search_field_and_no_bar_above_the_page(visit, page):
    seen = visit(f"{page}.html", viewport={"width": 1440, "height": 900})
    fields = seen.page.locator(".search-button-field:visible, input[name=q]:visible")
    assert fields.count() == 1
    assert seen.page.locator(".bd-main").bounding_box()["y"] == 0


@pytest.mark.parametrize("page", AND_SEARCH)
def test_page_is_light_and_steady(browser, served, page):
    """How soon it answers depends on the machine: audit.py measures that. Bytes are counted as they unpack.

    A live figure is among them: its scripts and data come compressed, 60 to 110 kB, with a picture for those without scripts.
    """
    seen = site_checks.measure(browser, f"{served}{page}.html", formulas_in_time=True)
    assert 10_000 < seen["weight"] - seen["theme"] < 950_000
    assert seen["shift"] < 0.1


@pytest.mark.parametrize("javascript", [True, False])
def test_text_is_shown_where_formulas_cannot_be_drawn(browser, site, javascript):
    """The text waits for its formulas, but not for a script that does not come."""
    context = site_checks.patient(browser.new_context(java_script_enabled=javascript))
    page = context.new_page()
    page.route("**/mathjax/**", lambda route: route.abort())
    page.goto(f"{site}/{NOTEBOOKS[0]}.html")
    page.locator("article h1").wait_for(state="visible")
    assert page.locator("article .math").count() and not page.locator("mjx-container").count()
    context.close()


@see(AND_SEARCH)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_page_is_accessible(seen, scheme, request):
    """A page in one theme today, in the other tomorrow: axe-core takes 8 s. The weekly workflow looks at both."""
    turn = datetime.date.today().toordinal() + AND_SEARCH.index(request.node.callspec.params["seen"])
    if scheme != SCHEMES[turn % 2] and not os.environ.get("BOTH_THEMES"):
        pytest.skip("tomorrow, or with BOTH_THEMES=1")
    seen.resize(1280, 720)
    seen.page.emulate_media(color_scheme=scheme)
    seen.page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
    assert site_checks.axe(seen.page) == []


def test_axe_finds_what_is_wrong(browser):
    """The tests above could pass because axe-core never ran."""
    page = browser.new_page()
    page.set_content('<html lang="en"><title>t</title><main><h1>t</h1><img src="x.png"><p style="color:#ccc">pale</p>')
    found = " ".join(site_checks.axe(page))
    page.close()
    assert "image-alt" in found and "color-contrast" in found


@pytest.mark.parametrize("page", PAGES)
def test_headings_are_in_order_and_figures_described(folder, page):
    article = BeautifulSoup((folder / f"{page}.html").read_text(), "html.parser").article
    levels = [int(heading.name[1]) for heading in article.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    for image in article.find_all("img"):
        assert len(image["alt"]) > 10 and not re.match(r"(\.\./)*_images/", image["alt"]), image["alt"][:80]
        assert image["width"] and image["height"] and image["decoding"] == "async"
        assert image["src"].startswith("data:") or image["loading"] == "lazy"


@pytest.mark.parametrize("page", [PAGES[0], NOTEBOOKS[0]])
def test_every_control_is_reached_by_keyboard_and_seen(visit, page):
    """Tab through the whole page: each stop is marked, and no visible control of the article is left out."""
    seen = visit(f"{page}.html")
    seen.page.evaluate("() => document.querySelectorAll('article :is(a[href], button, input, select, summary)')"
                       ".forEach((each, k) => each.dataset.stop = k)")
    visible = ("nodes => nodes.filter(n => n.checkVisibility({checkVisibilityCSS: true}) && n.tabIndex >= 0)"
               ".map(n => n.dataset.stop)")
    expected = set(seen.page.locator("article [data-stop]").evaluate_all(visible))
    look = """() => {
      const node = document.activeElement, style = getComputedStyle(node);
      const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      return [node.tagName, node.dataset.stop, ring || style.boxShadow !== "none", node.outerHTML.slice(0, 120)];
    }"""
    reached = set()
    for _ in range(600):
        seen.page.keyboard.press("Tab")
        tag, stop, marked, source = seen.page.evaluate(look)
        if tag == "BODY":
            break
        assert marked, source
        reached.add(stop)
    assert expected and expected <= reached


@see(CHAPTERS)
def test_explorables_follow_the_keyboard(seen):
    seen.resize(1280, 720)
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
                seen.page.wait_for_function(changed, arg=[image.element_handle(), before])
    assert seen.errors == []


@see(CHAPTERS)
def test_explorables_follow_the_theme(seen):
    image = seen.page.locator(".hessinit-explore img").first
    before = image.get_attribute("src")
    theme = seen.page.evaluate("document.documentElement.dataset.theme")
    seen.page.emulate_media(color_scheme="light" if theme == "dark" else "dark")
    seen.page.wait_for_function("([i, before]) => i.src !== before", arg=[image.element_handle(), before])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_explorables_lie_on_the_page_itself(visit, scheme):
    """Their ink is the page's: a sheet of any other colour behind them would hide it."""
    seen = visit(f"{CHAPTERS[0]}.html", color_scheme=scheme)
    assert seen.page.evaluate("document.documentElement.dataset.theme") == scheme
    image = seen.page.locator(".hessinit-explore img").first
    sheets = """i => {
      const found = [];
      for (let n = i; n.tagName !== "ARTICLE"; n = n.parentElement) found.push(getComputedStyle(n).backgroundColor);
      return found;
    }"""
    assert set(image.evaluate(sheets)) == {"rgba(0, 0, 0, 0)"}


@pytest.mark.parametrize("visitor", walk.VISITORS)
def test_walk_of_a_stranger(fork, browser, tmp_path, visitor):
    with site_checks.serve(fork) as address:
        pictures, colab = walk.walk(browser, address, tmp_path, visitor)
    assert len(pictures) == 11 and all(picture.stat().st_size > 10_000 for picture in pictures)
    assert colab.endswith(f"Some-Reader/fork/blob/notebooks/{CHAPTERS[0]}.ipynb")


def test_the_landing_page_has_a_laboratory(visit):
    """It draws, measures and trains by itself, and again when its knob is moved."""
    seen = visit(f"{PAGES[0]}.html")
    lab = seen.page.locator("article .hessinit-lab")
    trained = ("before => { const d = document.querySelector('.hessinit-lab').dataset;"
               " return d.answered > before && d.step >= 200 && d.state === 'complete'; }")
    seen.page.wait_for_function(trained, arg=0)
    before = lab.get_attribute("data-answered")
    lab.locator("input[type=range]").press("PageUp")
    seen.page.wait_for_function(trained, arg=int(before))
    assert seen.errors == [] and seen.outside == []


def test_live_figures_of_one_page_share_their_scripts(visit, folder):
    page = "book/11-principle.html"
    carried = re.findall('data-scripts="([^"]*)"', (folder / page).read_text(encoding="utf-8"))
    assert len(carried) > 1 and len(carried[0]) > 10_000 and not any(carried[1:])
    seen = visit(page)
    seen.page.wait_for_function("() => [...document.querySelectorAll('.hessinit-lab')].every(lab => lab.bench)")
    assert seen.page.locator(".hessinit-lab").count() == len(carried) and seen.errors == []


def test_words_of_the_laboratory_page_turn_its_knobs(visit):
    seen = visit("book/laboratory.html")
    words = seen.page.locator("article button[data-lab]")
    assert words.count() >= 3
    for word in words.all():
        word.click()
        seen.page.wait_for_function("text => { const bench = document.querySelector('.hessinit-lab').bench;"
                                    " return [...new URLSearchParams(text)].every(([k, v]) => String(bench.setting[k]) === v); }",
                                    arg=word.get_attribute("data-lab"))
    assert seen.errors == []


def test_the_switch_makes_the_page_dark(visit):
    seen = visit(f"{PAGES[0]}.html", color_scheme="light")
    background = "() => getComputedStyle(document.body).backgroundColor"
    bright = seen.page.evaluate(background)
    in_the_menu = seen.page.locator("button.theme-change-button[data-mode=dark]:visible")  # of newer themes
    for _ in range(3):  # elsewhere the switch goes round: auto, light, dark
        seen.page.locator("button.theme-switch-button:visible").first.click()
        if in_the_menu.count():
            in_the_menu.click()
        if seen.page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    seen.page.wait_for_function(f"bright => ({background})() !== bright", arg=bright)
    assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_search_finds_a_word_without_a_server(visit):
    seen = visit("search.html?q=Lanczos")
    seen.page.wait_for_selector("#search-results li a")
    assert any("08-spectra" in a.get_attribute("href") for a in seen.page.locator("#search-results li a").all())
    assert seen.errors == [] and seen.outside == []


def without_programs(text):
    """Markdown without the programs in it, whose brackets are no links."""
    return re.sub(r"(?ms)^```python$.*?^```", "", text)


@pytest.mark.parametrize("query, page, others", [
    ("xavier", "02-variance-flow", 4), ("kaiming", "03-activations", 4), ("adamw", "17-sharpness", 8),
    ("warm-up", "17-sharpness", 15), ("newton", "09-hessian-chain-rule", len(PAGES)),
])
def test_search_knows_other_names_and_whole_words(browser, served, query, page, others):
    """What is shown of a page is its text: no sources of formulas, no table of contents."""
    seen = site_checks.patient(browser.new_page())
    seen.goto(f"{served}search.html?q={query}")
    found = seen.locator("#search-results li a")
    seen.wait_for_function("() => /found|matching/.test(document.querySelector('.search-summary')?.innerText)")
    assert any(page in a.get_attribute("href") for a in found.all())
    assert len({a.get_attribute("href").partition("#")[0] for a in found.all()}) <= others
    seen.wait_for_function("() => [...document.querySelectorAll('#search-results li')]"
                           ".some(li => li.querySelector('p.context'))")
    for extract in seen.locator("#search-results p.context").all_inner_texts():
        assert "\\(" not in extract and "Contents" not in extract
    seen.close()


def test_missing_page_of_a_book_at_the_top_of_its_host(folder, browser):
    with site_checks.serve(folder) as address:
        page = site_checks.patient(browser.new_page())
        missing = []
        page.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"{address}book/no/such/page.html")
        assert missing == [f"{address}book/no/such/page.html"]
        assert page.locator("article p a").first.evaluate("a => a.href") == f"{address}{PAGES[0]}.html"
        page.close()


def test_every_link_leads_somewhere(folder):
    found = list(site_checks.links(folder))
    assert len(found) > 10 * len(PAGES)
    assert [wrong for page, address in found if (wrong := site_checks.broken(folder, page, address))] == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here">')
    page = Path("a.html")
    good = ["#here", "a.html", "a.html#here", "https://example.org/x"]
    bad = ["#gone", "b.html", "a.html#gone", "http://example.org", "https://localhost/x", "https://127.0.0.1/x",
           "file:///a"]
    assert [address for address in good + bad if site_checks.broken(tmp_path, page, address)] == bad


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """The book as the workflow of somebody's fork builds it: nothing differs but the variables that GitHub sets."""
    target = tmp_path_factory.mktemp("fork")
    environment = {**os.environ, "GITHUB_REPOSITORY": "Some-Reader/fork", "GITHUB_SERVER_URL": "https://github.com"}
    environment.pop("BOOK_URL", None)
    subprocess.run([*BUILD, "--path-output", str(target), "--quiet"], check=True, env=environment)
    return target / "_build" / "html"


class TestFork:
    REPOSITORY, BOOK = "https://github.com/Some-Reader/fork", "https://some-reader.github.io/fork/"

    @pytest.mark.parametrize("page", NOTEBOOKS)
    def test_buttons_and_notebooks_name_the_fork(self, fork, page):
        soup = BeautifulSoup((fork / f"{page}.html").read_text(), "html.parser")
        addresses = {a["href"] for a in soup.find_all("a", href=True)}
        assert f"https://colab.research.google.com/github/Some-Reader/fork/blob/notebooks/{page}.ipynb" in addresses
        assert f"{self.REPOSITORY}/edit/main/{page}.ipynb" in addresses
        assert f"../_sources/{page}.ipynb" in addresses
        handed_out = json.loads((fork / "_sources" / f"{page}.ipynb").read_text())
        stored = json.loads((ROOT / f"{page}.ipynb").read_text())
        first, *rest = (cell for cell in handed_out["cells"] if cell["cell_type"] == "code")
        source = "".join(first["source"])
        assert f'REPOSITORY = "{self.REPOSITORY}"' in source
        assert f'REPOSITORY = "{self.REPOSITORY}"' in soup.article.get_text()
        assert rest == [cell for cell in stored["cells"] if cell["cell_type"] == "code"][1:]

    @pytest.mark.parametrize("page", NOTEBOOKS)
    def test_links_in_notebooks_lead_into_the_hosted_book(self, fork, page):
        """There they are anchors that exist; a notebook that is read elsewhere has no neighbours."""
        cells = json.loads((fork / "_sources" / f"{page}.ipynb").read_text())["cells"]
        text = [line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"]]
        found = re.findall(r"\]\(([^)\s]+)\)", without_programs("".join(text)))
        assert all(address.startswith("https://") for address in found)
        inside = [each.removeprefix(self.BOOK) for each in found if each.startswith(self.BOOK)]
        broken = (site_checks.broken(fork, Path(), address) for address in inside)
        assert inside and list(filter(None, broken)) == []

    def test_sitemap_lists_every_page(self, fork):
        listed = {each.text for each in xml.parse(fork / "sitemap.xml").getroot().iter() if each.tag.endswith("loc")}
        assert {f"{self.BOOK}{page}.html" for page in PAGES} <= listed
        assert f"Sitemap: {self.BOOK}sitemap.xml" in (fork / "robots.txt").read_text()

    def test_every_page_has_a_picture_for_links_to_it(self, fork):
        for page in PAGES:
            soup = BeautifulSoup((fork / f"{page}.html").read_text(), "html.parser")
            meta = {tag.get("property") or tag.get("name"): tag["content"] for tag in soup.find_all("meta", content=True)}
            assert meta["og:image"] == f"{self.BOOK}_static/social.png"
            assert meta["og:url"] == f"{self.BOOK}{page}.html"
            assert meta["og:title"] and len(meta["og:description"]) > 40
        assert (fork / "_static" / "social.png").stat().st_size < 300_000

    def test_missing_page_under_the_sub_path(self, fork, browser):
        """At any depth: the 404 page finds its styles, and its links lead back into the book."""
        with site_checks.serve(fork, under="fork/") as address:
            for scheme in ("light", "dark"):
                page = site_checks.patient(browser.new_page(color_scheme=scheme))
                missing = []
                page.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
                page.goto(f"{address}book/no/such/page.html")
                assert missing == [f"{address}book/no/such/page.html"]
                assert page.locator("article h1").inner_text().startswith("This page is not here")
                assert page.locator("article p a").first.evaluate("a => a.href") == f"{address}{PAGES[0]}.html"
                assert page.evaluate("getComputedStyle(document.body).fontFamily") != "serif"
                assert site_checks.axe(page) == []
                page.close()

    def test_no_other_repository_is_named(self, fork):
        for page in PAGES:
            for address in re.findall(r'href="(https://(?:github|colab)[^"]*)"', (fork / f"{page}.html").read_text()):
                if any(word in address for word in ("/edit/", "/issues/new", "colab.research")):
                    assert "Some-Reader/fork" in address


def test_addresses_follow_from_the_variables_that_github_sets():
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    import book_site

    assert book_site.addresses({}) == ("", "")
    user_page = {"GITHUB_REPOSITORY": "A/a.github.io"}
    assert book_site.addresses(user_page) == ("https://github.com/A/a.github.io", "https://a.github.io/")
    own = {"GITHUB_REPOSITORY": "a/b", "BOOK_URL": "https://book.example.org"}
    assert book_site.addresses(own) == ("https://github.com/a/b", "https://book.example.org/")


def test_pdf_of_the_book(folder, browser, tmp_path):
    """The index and two chapters: numbered, with an outline, solutions open, and links that stay inside."""
    from pypdf import PdfReader

    target = tmp_path / "book.pdf"
    names = [PAGES[0], *NOTEBOOKS[:2]]
    count = pdf.make(browser, folder, target, names)
    book = PdfReader(target)
    assert len(book.pages) == count > 10
    chapters = [item for item in book.outline if not isinstance(item, list)]
    assert len(chapters) == 3 and any(isinstance(item, list) for item in book.outline)
    starts = [book.get_destination_page_number(item) for item in chapters]
    assert starts == sorted(set(starts)) and starts[0] == 0
    text = "\n".join(page.extract_text() for page in book.pages)
    assert "has sliders" in text and "Solution" in text and "Skip to main content" not in text
    links = [note.get_object() for page in book.pages for note in page.get("/Annots") or []]
    assert not any(str(note.get("/A", {}).get("/URI", "")).startswith(("file:", "http:")) for note in links)
    first = {page.indirect_reference.idnum for page in (book.pages[n] for n in starts)}
    assert any(note["/Dest"][0].idnum in first for note in links if "/Dest" in note and isinstance(note["/Dest"], list))
