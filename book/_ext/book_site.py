"""What the built site adds to the theme: addresses, MathJax, its 404 page, chapters' numbers, and mended pages.

No address is written down anywhere. GITHUB_REPOSITORY ("owner/name", set by GitHub in every workflow)
and GITHUB_SERVER_URL say where the book lives. They fill the buttons, the first cell of every notebook
that the site shows or hands out, the links in those it hands out (plain_notebooks.py makes them plain
Markdown), the sitemap and the social image. Without them all of these are left out, so that no link
points at someone else's repository. BOOK_URL is for a book with a domain of its own.
"""

import html
import os
import re
import shutil
from importlib.metadata import files
from pathlib import Path
from urllib.parse import urlsplit

import imagesize
from docutils import nodes
from inline_figures import inline
from PIL import Image
from plain_notebooks import plain
from sphinx.util.nodes import clean_astext

ASSETS = Path(__file__).parent.parent / "_assets"
COLAB_BRANCH = "notebooks"  # written by the deploy workflow: main's notebooks have no address filled in
NOT_FOUND = """
<section><h1>This page is not here</h1>
<p>The address may be old or mistyped. <a href="{home}">The book's first page</a> lists the chapters,
and the <a href="search.html">search page</a> looks through all of them.</p></section>
"""


def addresses(environment=os.environ):
    """Where the repository and the hosted book are, both "" outside of a GitHub workflow.

    Returns (repository, book): the first without a slash at its end, the second with one.
    """
    name, book = environment.get("GITHUB_REPOSITORY", ""), environment.get("BOOK_URL", "")
    if not name:
        return "", book and book.rstrip("/") + "/"
    owner, repository = name.split("/")
    server = environment.get("GITHUB_SERVER_URL", "https://github.com")
    host = f"{owner.lower()}.github.io"
    book = book or (f"https://{host}" if repository.lower() == host else f"https://{host}/{repository}")
    return f"{server}/{name}", book.rstrip("/") + "/"


def fill_repository(notebook, repository):
    """The notebook's text (JSON) with the address from which its first cell installs the module."""
    return notebook.replace(r"REPOSITORY = \"\"", rf"REPOSITORY = \"{repository}\"")


def configure(app, config):
    repository, book = addresses()
    config.book_address = (repository, book)
    options = config.html_theme_options
    if repository:
        options.update(repository_url=repository, repository_provider="github", use_repository_button=True,
                       use_issues_button=True, use_edit_page_button=True)
    if not repository.startswith("https://github.com/"):  # Colab opens no other
        options.update(launch_buttons={})
    if book:
        config.html_baseurl = config.ogp_site_url = book
        config.sitemap_url_scheme = "{link}"
        config.ogp_image = f"{book}_static/social.png"
        config.ogp_image_alt = "The norm of each layer's Hessian block in a deep ReLU net under four initializations"
        config.ogp_site_name = config.html_title
        config.ogp_social_cards = {"enable": False}


def copy_mathjax(app, config):
    """MathJax out of the package sphinx-mathjax-offline: one file, so that the pages need no network."""
    (source,) = (f for f in files("sphinx-mathjax-offline") if f.name == "tex-svg.js")
    target = ASSETS / "mathjax" / "tex-svg.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.locate(), target)


def fill_page(app, docname, source):
    """The page shows the same first cell that its download has."""
    if str(app.env.doc2path(docname)).endswith(".ipynb"):
        source[0] = fill_repository(source[0], app.config.book_address[0])


def renew(app, env, added, changed, removed):
    """All pages name the style sheet's checksum; without a changed page Sphinx would not even copy a new sheet."""
    index, assets = Path(app.outdir) / "searchindex.js", [path for path in ASSETS.glob("*") if path.is_file()]
    newer = index.exists() and max(path.stat().st_mtime for path in assets) > index.stat().st_mtime
    return env.found_docs if newer else []


def number_references(app, doctree, docname):
    """A link that shows a chapter's title shows its number, too, as the title itself and the side bar do."""
    env = app.env
    numbers = {clean_astext(env.titles[name]): number[""] for name, number in env.toc_secnumbers.items()}
    for reference in doctree.findall(nodes.reference):
        number = numbers.get(reference.astext())
        if number and reference.get("internal") and "secnumber" not in reference:
            reference.insert(0, nodes.Text("{}. ".format(*number)))


def drop_live_code(app, pagename, templatename, context, doctree):
    """No page runs code: the scripts for that, which the theme adds twice so that the browser complains, go."""
    context["script_files"] = [
        script for script in context["script_files"]
        if "thebe" not in f"{script.filename} {script.attributes.get('body', '')}".lower()
    ]


def adjust_buttons(app, pagename, templatename, context, doctree):
    """Colab opens the filled notebooks; no font of 120 kB for one brand's icon."""
    branch = app.config.html_theme_options.get("repository_branch", "main")
    for group in context.get("header_buttons", []):
        for each in [group, *group.get("buttons", [])]:
            each["icon"] = each["icon"].replace("fab fa-github", "fas fa-code-branch")
        for button in group.get("buttons", []) if group.get("label") == "launch-buttons" else []:
            button["url"] = button["url"].replace(f"/blob/{branch}/", f"/blob/{COLAB_BRANCH}/")


def hang(body):
    """Every line of code and output by itself, so that the style sheet can indent what does not fit and is wrapped.

    Outputs with columns, which wrapping would tear, are marked.
    """

    def lines(match):
        start, text = match[1], match[2].removesuffix("\n")
        plain = [html.unescape(re.sub("<[^>]*>", "", line)) for line in text.split("\n")]
        columns = sum(bool(re.search(r"\S {2,}\S", line)) for line in plain) >= 2
        if columns and "output" in match.string[max(0, match.start() - 120):match.start()]:
            start = start.replace("<pre>", '<pre class="columns">')
        indents = (len(line) - len(line.lstrip()) for line in plain)
        styles = (f' style="--i:{indent}"' if indent else "" for indent in indents)
        spans = (f'<span class="line"{style}>{line}\n</span>' for style, line in zip(styles, text.split("\n")))
        return f"{start}{''.join(spans)}</pre>"

    return re.sub(r'(<div class="highlight"><pre>(?:<span></span>)?)(.*?)</pre>', lines, body, flags=re.DOTALL)


def scripts_once(body):
    """Of a page's live figures only the first carries the scripts: `load.js` starts the others with them, too."""
    seen = set()

    def once(match):
        known = match[1] in seen
        seen.add(match[1])
        return 'data-scripts=""' if known else match[0]

    return re.sub(r'data-scripts="([^"]+)"', once, body)


def mend(app, pagename, templatename, context, doctree):
    """Images load when they come near the screen, nothing moves when they do, and each has a text.

    Where a notebook's cell gives its figure no alternative text, the caption below is taken.
    """
    paths = {name: Path(app.srcdir) / path for path, name in app.builder.images.items()}
    letters = set()  # drawn in the page's figures so far

    def mend_image(match):
        tag, source = match[0], html.unescape(re.search(r'\bsrc="([^"]*)"', match[0])[1])
        late = "" if source.startswith("data:") else ' loading="lazy"'
        size = ""
        path = paths.get(source.rsplit("/", 1)[-1])
        if path and not re.search(r"\b(width|height)=|style=", tag):
            size = ' width="{}" height="{}"'.format(*(round(x) for x in imagesize.get(path)))
        caption = re.match(r"\s*(?:</div>\s*)*<p><em>(.+?)</p>", match.string[match.end():], re.DOTALL)
        if caption and f'alt="{source}"' in tag:
            text = html.escape(html.unescape(re.sub("<[^>]*>", "", caption[1])))
            tag = tag.replace(f'alt="{source}"', f'alt="{text}"')
        if path and path.suffix == ".svg" and "jupyter_execute" in path.parts:
            return inline(path.read_text(encoding="utf-8"), re.search(r'alt="([^"]*)"', tag)[1], letters)
        return f'<img{late} decoding="async"{size}{tag[len("<img"):]}'

    if "body" in context:
        body = scripts_once(re.sub(r"<img\b[^>]*>", mend_image, context["body"]))
        # A list's children must be list items, and these have a role of their own.
        context["body"] = hang(body.replace('<div role="list" class="citation-list">', '<div class="citation-list">'))


def lighten(out):
    """Take out what the theme ships and these pages do not use, two thirds of a page's weight; shrink plots.

    The search tools on every page are for a search while typing, which is off. The icons exist twice, as
    a font and as a script of 1.5 MB; the font is enough, and of its 1,900 icons the book shows a few.
    """
    shown = set()
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        names = "scripts/fontawesome" + ("" if path.name == "search.html" else "|searchtools|language_data|searchindex")
        unused = re.compile(rf'\s*<script [^>]*src="[^"]*({names})\.js[^>]*></script>')
        path.write_text(unused.sub("", text), encoding="utf-8")
        shown.update(re.findall(r"fa-[a-z0-9-]+", text))
    styles = out / "_static" / "styles" / "pydata-sphinx-theme.css"
    icon = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"[^"]*"\}')
    keep = lambda rule: rule[0] if shown & set(re.findall(r"fa-[a-z0-9-]+", rule[1])) else ""
    styles.write_text(icon.sub(keep, styles.read_text(encoding="utf-8")), encoding="utf-8")
    for path in (out / "_images").glob("*.png"):
        with Image.open(path) as picture:
            opaque = picture.convert("RGB")
            if picture.mode == "P" or picture.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                continue  # done already, or not on white
        # Plots have few colours: a palette of 256 shows them as they are.
        opaque.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def name_arrows(out):
    """The side bar's arrow that unfolds a chapter's further pages gets a name, for who does not see it."""
    bare = '<summary><span class="toctree-toggle"'
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(bare, bare.replace(">", ' aria-label="Pages of this chapter">', 1)), encoding="utf-8")


def not_found_page(app):
    home = app.builder.get_relative_uri("404", app.config.root_doc)
    yield "404", {"title": "Page not found", "body": NOT_FOUND.format(home=home)}, "page.html"


def finish(app, exception):
    if exception or app.builder.format != "html":
        return
    out, (repository, book) = Path(app.outdir), app.config.book_address
    for docname in app.env.found_docs:
        path = str(app.env.doc2path(docname, base=False))
        if path.endswith(".ipynb"):  # from the source: Sphinx copies it only where the page has changed
            text = fill_repository((Path(app.srcdir) / path).read_text(encoding="utf-8"), repository)
            text = plain(app.env, docname, text, book)
            (out / "_sources" / path).write_text(text, encoding="utf-8")
    lighten(out)
    name_arrows(out)
    # Read by crawlers where the book is at the top of its host, harmless elsewhere.
    sitemap = f"Sitemap: {book}sitemap.xml\n" if book else ""
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\n{sitemap}")
    # Shown for any address, however deep: its links must not be relative to that. Where nothing says where
    # the book is, it is at the top of whatever host serves it; opened from disk the page lies beside its styles.
    page = out / "404.html"
    text = page.read_text(encoding="utf-8").replace('href="#', 'href="404.html#')
    base = f'<base href="{urlsplit(book).path or "/"}">'
    if not book:
        base += "<script>if (location.protocol === 'file:') document.querySelector('base').remove()</script>"
    page.write_text(text.replace("<head>", f"<head>\n{base}", 1), encoding="utf-8")


def setup(app):
    app.add_config_value("book_address", ("", ""), "env", (tuple,))  # a new address: all pages are read anew
    if addresses()[1]:  # both want to know where the book is
        app.setup_extension("sphinx_sitemap")
        app.setup_extension("sphinxext.opengraph")
    app.connect("config-inited", configure, priority=0)
    app.connect("config-inited", copy_mathjax, priority=0)
    app.connect("source-read", fill_page)
    app.connect("env-get-outdated", renew)
    app.connect("html-collect-pages", not_found_page)
    app.connect("doctree-resolved", number_references)
    app.connect("html-page-context", adjust_buttons, priority=900)
    app.connect("html-page-context", drop_live_code, priority=900)
    app.connect("html-page-context", mend, priority=900)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
