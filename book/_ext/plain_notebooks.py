"""Chapters in plain Markdown, for Jupyter and Colab: both show MyST as it is written.

The sources stay MyST. What is handed out (book_site.py) has the site's numbers and titles, taken
from Sphinx's environment, and links to the hosted book. A solution becomes a folded section, not
a <details>: it holds code cells, and only a heading folds those.
"""

import json
import posixpath
import re
from pathlib import Path

from docutils.nodes import make_id
from markdown_it.renderer import RendererHTML
from myst_parser.parsers.mdit import create_md_parser
from sphinx.errors import ExtensionError

# What Jupyter and Colab understand, in the parser's names: CommonMark, tables, dollar formulas.
PLAIN = set("""blockquote bullet_list code_block code_inline em fence hardbreak heading hr
    html_block html_inline image inline link list_item math_block math_inline ordered_list paragraph
    softbreak strong table tbody td text th thead tr""".split())
REWRITTEN = ("fence", "colon_fence", "code_block", "math_block_label", "myst_target")
DIRECTIVE = re.compile(r"\{(\S+)\}\s*(.*)")
CONTENT = re.compile(r"((?:[ \t]*:[\w-]+:.*\n)*)((?:.|\n)*)")  # a directive's options, its text
ADMONITIONS = ("admonition", "attention", "caution", "hint", "important", "note", "seealso", "tip",
               "warning")
START, END = "{solution-start}", "{solution-end}"
FOLDED = "jp-MarkdownHeadingCollapsed"  # Jupyter's name for it
INLINE = re.compile(
    r"\{(?P<role>[a-z:]+)\}`(?P<target>[^`]+)`"
    r"|(?<!!)\[(?P<text>[^\]]*)\]\((?P<address>[^)\s]+)\)"
    # code and formulas stay
    r"|(?P<tick>`+)(?!`).*?(?<!`)(?P=tick)(?!`)|(?P<dollar>\$\$?).*?(?P=dollar)",
    re.DOTALL)


def plain(env, docname, text, address):
    """The chapter `docname`, a notebook's JSON, with its Markdown cells in plain Markdown.

    env: Sphinx's environment after a build. address: the hosted book's, with a slash at its end;
    if "" links to other pages are left as text. Code cells and outputs stay as they are. Raises
    ExtensionError on MyST that has no plain form here.
    """
    chapter, notebook = _Chapter(env, docname, address), json.loads(text)
    cells = [new for cell in notebook["cells"] for new in chapter.cells(cell)]
    notebook["cells"] = cells
    # Jupyter marks a folded cell, Colab lists them.
    folded = [cell["id"] for cell in cells if FOLDED in cell["metadata"]]
    notebook["metadata"]["colab"] = {"collapsed_sections": folded}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


class _Chapter:
    def __init__(self, env, docname, address):
        self.env, self.docname, self.address = env, docname, address
        self.parser = create_md_parser(env.myst_config, RendererHTML)
        self.numbers = {anchor: (page, kind, ".".join(map(str, number)))
                        for page, kinds in env.toc_fignumbers.items()
                        for kind, numbers in kinds.items() for anchor, number in numbers.items()}

    def refuse(self, what):
        raise ExtensionError(
            f"{self.docname}: book/_ext/plain_notebooks.py has no plain form of {what}")

    def cells(self, cell):
        """What stands for a cell: one, or several where a solution begins or ends in it."""
        if cell["cell_type"] != "markdown":
            yield cell
            return
        lines = "".join(cell["source"]).splitlines(keepends=True)
        found, at = [], 0
        for token in self.parser.parse("".join(lines)):
            if token.type == "fence" and token.info.startswith((START, END)):
                found.append((self.markdown(lines[at:token.map[0]]), {}))
                if token.info.startswith(START):
                    exercise = self.reference(DIRECTIVE.match(token.info)[2])
                    found.append((f"#### Solution to {exercise}", {FOLDED: True}))
                at = token.map[1]
        found.append((self.markdown(lines[at:]), {}))
        found = [(text, metadata) for text, metadata in found if text]
        for part, (text, metadata) in enumerate(found):
            name = cell["id"] + f"-{part}" * bool(part)
            if metadata:
                metadata["id"] = name  # where Colab looks for it
            yield {**cell, "id": name, "metadata": {**cell["metadata"], **metadata},
                   "source": text.splitlines(keepends=True)}

    def markdown(self, lines):
        """MyST as plain Markdown, checked to be plain."""
        text = self.blocks("".join(lines)).strip()
        tokens = self.parser.parse(text)
        for token in [each for outer in tokens for each in (outer, *(outer.children or []))]:
            target = token.attrs.get("href") or token.attrs.get("src") or "https:"
            if token.type.startswith("myst_role"):
                self.refuse(f"the role {{{token.meta['name']}}}")
            if re.sub("_(open|close)$", "", token.type) not in PLAIN or token.info.startswith("{"):
                self.refuse(f"{token.type} {token.info}".strip())
            if not re.match("https?:|mailto:|data:|attachment:", target):
                self.refuse(f"a link to {target}")
            if token.attrs.keys() - {"href", "src", "alt", "title", "start", "style"}:
                self.refuse(f"the attributes {token.attrs}")
        return text

    def blocks(self, text):
        lines, parts, at = text.splitlines(keepends=True), [], 0
        for token in self.parser.parse(text):
            if token.type in REWRITTEN:
                start, end = token.map
                parts.append(self.inline("".join(lines[at:start])))
                parts.append(self.block(token, "".join(lines[start:end])))
                at = end
        return "".join([*parts, self.inline("".join(lines[at:]))])

    def block(self, token, source):
        if token.type == "myst_target":
            return ""
        if token.type == "math_block_label":
            number = self.equation(token.info)[2]
            return re.sub(r"\s*\$\$\s*\([^()]*\)\s*$", rf" \\tag{{{number}}} $$\n", source)
        match = DIRECTIVE.match(token.info)
        if not match or token.level:
            return source
        name, title = match.groups()
        options, content = CONTENT.match(token.content).groups()
        label, content = re.search(r":label: *(\S+)", options), self.blocks(content).strip()
        if name == "exercise" and label and not title:
            return f"### {self.reference(label[1])}\n\n{content}\n"
        if name == "prf:proof":
            return _quoted("**Proof**", content)
        if name.startswith("prf:") and label:
            title = f" ({self.inline(title)})" if title else ""
            return _quoted(f"**{self.reference(label[1])}**{title}", content)
        if name == "dropdown" or name == "admonition" and ":class: dropdown" in options:
            summary = self.inline(title)
            return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>\n"
        if name in ADMONITIONS:
            return _quoted(f"**{self.inline(title) or name.capitalize()}**", content)
        if name == "literalinclude":
            file = Path(self.env.doc2path(self.docname)).parent / title
            return f"```python\n{file.read_text()}```\n"
        return source  # refused by markdown()

    def inline(self, text):
        def replace(match):
            if match["role"]:
                return self.role(match["role"], match["target"]) or match[0]
            if match["address"]:
                return self.to(match["address"], match["text"]) or match[0]
            return match[0]

        return INLINE.sub(replace, text)

    def role(self, name, target):
        if name == "eq":
            page, anchor, number = self.equation(target)
            return self.link(f"({number})", page, anchor)
        if name in ("ref", "numref", "prf:ref"):
            titled = re.fullmatch(r"(.*?)\s*<(.*)>", target)
            return self.reference(titled[2], titled[1]) if titled else self.reference(target)
        if name == "cite:t":
            return ", ".join(self.source(key, "{} ({})") for key in target.split(","))
        if name in ("cite", "cite:p"):
            return "[" + "; ".join(self.source(key, "{}, {}") for key in target.split(",")) + "]"
        return None

    def to(self, address, text):
        """A link within the book; None for any other."""
        if "://" in address:
            return None
        path, _, anchor = address.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.docname), path))
        page, suffix = posixpath.splitext(path)
        text = self.inline(text)
        if suffix in (".ipynb", ".md") and page in self.env.found_docs:
            return self.link(text or self.env.titles[page].astext(), page, anchor)
        return self.reference(address.lstrip("#"), text)

    def equation(self, label):
        anchor = make_id(f"equation-{label}")
        page, _, number = self.numbers.get(anchor) or self.refuse(f"the label {label}")
        return page, anchor, number

    def reference(self, label, text=""):
        """What has a number, or the section with this label, in the site's words."""
        if label in self.numbers:
            page, kind, number = self.numbers[label]
            return self.link(text or f"{kind.capitalize()} {number}", page, label)
        labels = self.env.get_domain("std").labels
        page, anchor, title = labels.get(label) or self.refuse(f"the label {label}")
        return self.link(text or title, page, anchor)

    def link(self, text, page, anchor=""):
        if page == self.docname or not self.address:
            return text
        return f"[{text}]({self.address}{page}.html{'#' * bool(anchor)}{anchor})"

    def source(self, key, form):
        """Authors and year, with a link to the paper itself or else to the bibliography."""
        key, cite = key.strip(), self.env.get_domain("cite")
        entry = cite.bibdata.data.entries.get(key) or self.refuse(f"the source {key}")
        authors = [" ".join(map(str, person.rich_prelast_names + person.rich_last_names))
                   for person in entry.persons["author"]]
        names = " and ".join(authors) if len(authors) < 3 else f"{authors[0]} et al."
        text = form.format(names, entry.fields["year"])
        if "doi" in entry.fields:
            return f"[{text}](https://doi.org/{entry.fields['doi']})"
        if "url" in entry.fields:
            return f"[{text}]({entry.fields['url']})"
        (found,) = (each for each in cite.citations if each.key == key)
        return self.link(text, found.bibliography_key.docname, found.citation_id)


def _quoted(title, content):
    """A block quote, formulas on one line: of others Jupyter takes the quote's marks for TeX."""
    content = re.sub(r"(\$\$?)(?:.|\n)*?\1", lambda formula: formula[0].replace("\n", " "), content)
    return "".join(f"> {line}".rstrip() + "\n" for line in f"{title}\n\n{content}".splitlines())
