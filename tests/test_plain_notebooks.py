"""The chapters as Colab and the download button get them: plain Markdown, solutions folded."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup
from docutils.nodes import title
from myst_parser.config.main import MdParserConfig
from other_machines import NOTEBOOKS
from pybtex.database import parse_string
from sphinx.errors import ExtensionError
from test_site import BUILD, HTML, NO_BROWSER, ROOT, site_checks, without_programs

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from book_site import addresses, fill_repository  # noqa: E402
from plain_notebooks import plain  # noqa: E402

MYST = re.compile(r"\{[a-z:]+\}`|^ *(:::|```+\{|~~~+\{)|^\([^()]*\)=|^:label:|\]\((?!https?:)"
                  r"|\$\$ *\(", re.M)


@pytest.fixture(scope="module", autouse=True)
def built():
    if not (HTML / "index.html").exists():
        subprocess.run(BUILD, check=True)


def handed_out(path):
    return nbformat.read(HTML / "_sources" / "book" / path.name, 4)


def markdown(notebook):
    """The text, without programs in it."""
    return without_programs("\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))


def is_answer(cell):
    return cell.metadata.get("jp-MarkdownHeadingCollapsed", False)


def visible(cells):
    """The cells that no folded heading hides: those up to the next heading of its level."""
    level = None
    for cell in cells:
        heading = re.match("(#+) ", cell.source) if cell.cell_type == "markdown" else None
        if level and heading and len(heading[1]) <= level:
            level = None
        if not level:
            yield cell
        if is_answer(cell):
            level = len(heading[1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestHandedOut:
    def test_no_myst_is_left(self, path):
        notebook = handed_out(path)
        nbformat.validate(notebook)
        assert MYST.search(markdown(nbformat.read(path, 4)))  # the search would find it
        assert not (found := MYST.search(markdown(notebook))), found

    def test_code_and_outputs_are_those_stored(self, path):
        stored = json.loads(fill_repository(path.read_text(encoding="utf-8"), addresses()[0]))
        given = json.loads((HTML / "_sources" / "book" / path.name).read_text(encoding="utf-8"))
        code = [[json.dumps(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
                for notebook in (stored, given)]
        assert code[0] == code[1]

    def test_solutions_are_folded(self, path):
        inside, of_solutions = False, set()
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code" and inside:
                of_solutions.add(cell.id)
            elif "{solution-" in cell.source:
                inside = "{solution-start}" in cell.source
        notebook = handed_out(path)
        seen = list(visible(notebook.cells))
        code = {cell.id for cell in notebook.cells if cell.cell_type == "code"}
        assert code - {cell.id for cell in seen} == of_solutions
        for cell, after in zip(seen, seen[1:]):
            assert not is_answer(cell) or after.source.startswith("##")  # no text of a solution
        names = [cell.metadata.id for cell in notebook.cells if is_answer(cell)]
        assert notebook.metadata.colab.collapsed_sections == names
        assert len(names) == markdown(nbformat.read(path, 4)).count("{solution-start}")

    def test_numbers_are_the_sites(self, path):
        page = (HTML / "book" / f"{path.stem}.html").read_text(encoding="utf-8")
        article, text = BeautifulSoup(page, "html.parser").article, markdown(handed_out(path))
        equations = [each.get_text().strip("()#") for each in article.select(".eqno")]
        assert re.findall(r"\\tag\{([\d.]+)\}", text) == equations
        captions = [each.get_text().strip() for each in article.select(".caption-number")]
        assert re.findall(r"^(?:### |> \*\*)((?:Exercise|Theorem) [\d.]+)", text, re.M) == captions
        references = [each.get_text() for each in article.select("a.reference.internal")]
        numbers = Counter(each for each in references if re.fullmatch(r"\([\d.]+\)", each))
        assert numbers <= Counter(re.findall(r"\([\d.]+\)", text))


EXTENSIONS = {"attrs_inline", "colon_fence", "deflist", "dollarmath"}
BIBLIOGRAPHY = """
@book{one, author = {Noether, Emmy}, title = {A}, year = {1918}, doi = {10.1/2}}
@book{three, author = {A and van B, C and D}, title = {B}, year = {2000}}
"""


def converted(source, address="https://example.org/"):
    """A cell of a page `book/here` in a book of two pages."""
    cite = SimpleNamespace(
        bibdata=SimpleNamespace(data=parse_string(BIBLIOGRAPHY, "bibtex")),
        citations=[SimpleNamespace(key="three", citation_id="id3",
                                   bibliography_key=SimpleNamespace(docname="book/there"))])
    std = SimpleNamespace(labels={"sec": ("book/there", "sec", "A section")})
    env = SimpleNamespace(
        myst_config=MdParserConfig(enable_extensions=EXTENSIONS),
        toc_fignumbers={
            "book/here": {"displaymath": {"equation-eq-a": (7,)}, "exercise": {"ex": (2,)}},
            "book/there": {"displaymath": {"equation-eq-b": (8,)}, "theorem": {"thm": (4,)}}},
        titles={"book/there": title(text="There")}, found_docs={"book/here", "book/there"},
        doc2path=lambda name: str(ROOT / name) + ".ipynb",
        get_domain={"cite": cite, "std": std}.get)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source, id="c")])
    return nbformat.reads(plain(env, "book/here", nbformat.writes(notebook), address), 4).cells


THERE = "https://example.org/book/there.html"


@pytest.mark.parametrize("myst, expected", [
    ("{cite:t}`one` and {cite}`one, three`", "[Noether (1918)](https://doi.org/10.1/2) and "
     f"[[Noether, 1918](https://doi.org/10.1/2); [A et al., 2000]({THERE}#id3)]"),
    ("$$ x $$ (eq-a)\n\nBy {eq}`eq-a` and {eq}`eq-b`",
     f"$$ x \\tag{{7}} $$\n\nBy (7) and [(8)]({THERE}#equation-eq-b)"),
    ("{prf:ref}`thm`, {ref}`ex`, {ref}`this <sec>`, [](#sec)",
     f"[Theorem 4]({THERE}#thm), Exercise 2, [this]({THERE}#sec), [A section]({THERE}#sec)"),
    ("[](there.md), [`x`](there.ipynb#y)", f"[There]({THERE}), [`x`]({THERE}#y)"),
    ("(sec)=\n## Here", "## Here"),
    ("````{exercise}\n:label: ex\n\nSee\n```python\nx = '{eq}`eq-b`'\n```\n````",
     "### Exercise 2\n\nSee\n```python\nx = '{eq}`eq-b`'\n```"),
    ("```{prf:theorem} Name\n:label: thm\n$$ x\n= y $$\n```",
     f"> **[Theorem 4]({THERE}#thm)** (Name)\n>\n> $$ x = y $$"),
    (":::{note}\nA *word*\n:::", "> **Note**\n>\n> A *word*"),
    (":::{dropdown} Answer\n42\n:::", "<details>\n<summary>Answer</summary>\n\n42\n\n</details>"),
    ("```{admonition} Answer\n:class: dropdown\n42\n```", "<details>\n<summary>Answer</summary>\n\n42\n\n</details>"),
    ("```{literalinclude} ../hessinit_lite/lab/ranks/__init__.py\n:language: python\n```",
     f"```python\n{(ROOT / 'hessinit_lite/lab/ranks/__init__.py').read_text()}```"),
    *[(same, same) for same in ("`{eq}` and `f{x}` b `c` $\\{a\\}$", "[i](https://example.com)")],
])
def test_what_becomes_of_myst(myst, expected):
    assert [cell.source for cell in converted(myst)] == [expected]


def test_without_an_address_only_text_is_left():
    assert converted("{eq}`eq-b` [a](there.md)", address="")[0].source == "(8) a"


def test_a_solution_becomes_a_folded_section():
    cells = converted("Before\n```{solution-start} ex\n:class: dropdown\n```\nText\n"
                      "\n```{solution-end}\n```\n")
    assert [cell.source for cell in cells] == ["Before", "#### Solution to Exercise 2", "Text"]
    assert [is_answer(cell) for cell in cells] == [False, True, False]
    assert [cell.id for cell in cells] == ["c", "c-1", "c-2"] and cells[1].metadata.id == "c-1"


@pytest.mark.parametrize("myst, named", [
    ("```{figure} a.png\n```", "{figure}"),
    ("::::{grid} 2\n:::{card}\n:::\n::::", "{grid}"),
    ("```{note}\n:::{tab-set}\n:::\n```", "{tab-set}"),
    ("{term}`a`", "{term}"),
    ("{ref}`gone`", "gone"),
    ("{eq}`gone`", "gone"),
    ("{cite}`gone`", "gone"),
    ("[a](gone.md)", "gone.md"),
    ("![a](a.png)", "a.png"),
    ("[a](https://example.com){.wide}", "wide"),
    ("term\n: text", "dl"),
    ("% comment", "comment"),
])
def test_unknown_myst_is_refused_by_name(myst, named):
    with pytest.raises(ExtensionError, match=f"book/here: .*{re.escape(named)}"):
        converted(myst)


@pytest.fixture
def jupyterlab(tmp_path):
    """The address of a JupyterLab with settings of its own, and the folder that it shows."""
    own = {f"{name}_DIR": str(tmp_path / name) for name in (
        "JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_SETTINGS",
        "JUPYTERLAB_WORKSPACES")}
    notebooks = tmp_path / "JUPYTERLAB_SETTINGS" / "@jupyterlab" / "notebook-extension"
    notebooks.mkdir(parents=True)
    # All cells are drawn at once, not only those on the screen.
    (notebooks / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    work = tmp_path / "work"
    work.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
         "--port=0", "--IdentityProvider.token=test", f"--ServerApp.root_dir={work}"],
        env={**os.environ, **own}, stderr=subprocess.PIPE, text=True)
    said = []
    for line in server.stderr:
        said.append(line)
        if found := re.search(r"(http://127\.0\.0\.1:\d+/)lab\?token", line):
            break
    else:
        pytest.fail("".join(said))
    # Read on: the server stops when the pipe is full.
    threading.Thread(target=server.stderr.read, daemon=True).start()
    yield found[1], work
    server.terminate()
    server.wait()


# The cells that are seen, with their places among all; and the text of those in Markdown.
SEEN = """[...document.querySelectorAll(".jp-Notebook .jp-Cell")].map((cell, place) => ({
  place, visible: cell.checkVisibility(), markdown: cell.matches(".jp-MarkdownCell"),
  text: cell.querySelector(".jp-RenderedMarkdown")?.innerText ?? ""
})).filter(cell => cell.visible)"""
RAW = re.compile(r"\{(cite|eq|ref|prf|exercise|solution)|:::|:label:|\((eq|ex)-")  # MyST, drawn
TEXT = f"{SEEN}.map(cell => cell.text).join('\\n')"


@pytest.mark.skipif(not site_checks.chromium(), reason=NO_BROWSER)
def test_jupyterlab_shows_no_myst_and_no_solution(jupyterlab, browser):
    """A chapter with theorems, sources and references; of a solution only its heading is seen."""
    address, folder = jupyterlab
    path = next(path for path in NOTEBOOKS if path.stem.startswith("07"))
    notebook = handed_out(path)
    nbformat.write(notebook, folder / path.name)
    places = {cell.id: place for place, cell in enumerate(notebook.cells)}
    expected = [places[cell.id] for cell in visible(notebook.cells)]
    page = site_checks.patient(browser.new_page())
    page.route(lambda url: not url.startswith((address, "data:", "blob:")),
               lambda route: route.abort())
    page.goto(f"{address}lab/tree/{path.name}?token=test")
    page.wait_for_function(
        f"wanted => String({SEEN}.map(cell => cell.place)) === String(wanted)", arg=expected)
    page.wait_for_function(f"() => {SEEN}.every(cell => cell.text || !cell.markdown)")
    page.wait_for_function(f"() => !{TEXT}.includes('$')")  # all formulas are drawn
    text = page.evaluate(f"() => {TEXT}")
    assert not (found := RAW.search(text)), found
    assert RAW.search(markdown(nbformat.read(path, 4)).replace("`", ""))  # it would be found
    for each in ("Theorem 7.1", "Pearlmutter (1994)", "Solution to Exercise 7.1"):
        assert each in text
    assert page.locator(".jp-Notebook mjx-container").count() > 100
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    hidden = next(place for place in places.values() if place not in expected)
    page.locator(".jp-showHiddenCellsButton").first.click()
    page.locator(".jp-Notebook .jp-Cell").nth(hidden).wait_for(state="visible")
    page.close()
