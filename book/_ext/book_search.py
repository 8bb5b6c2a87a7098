"""The search: a word with a hyphen is one word, and pages are found by the names that others use."""

import re

from docutils import nodes
from sphinx.search.en import SearchEnglish

HYPHENS = "-‐‑–"
ALIASES = {  # as if they were words of the page
    "book/02-variance-flow": "Xavier",
    "book/03-activations": "Kaiming",
    "book/17-sharpness": "AdamW, warmup",
}


class SearchWords(SearchEnglish):
    """English, but "warm-up" is asked for as a whole: by its parts it would find every page with "up".

    The index has both, so that "newton" finds Gauss-Newton.
    """

    js_splitter_code = r"""
var splitQuery = (query) => query.replace(/[‐‑–]/g, "-").split(/[^\p{Letter}\p{Number}_-]+/u)
  .map((word) => word.replace(/^-+|-+$/g, "")).filter((word) => word);
"""

    def split(self, text):
        words = []
        for word in re.findall(rf"\w+(?:[{HYPHENS}]\w+)*", text):
            parts = re.split(f"[{HYPHENS}]", word)
            words += parts if len(parts) == 1 else [*parts, "-".join(parts)]
        return words


def add_aliases(app, doctree):
    if aliases := ALIASES.get(app.env.docname):
        doctree.insert(0, nodes.meta("", name="keywords", content=aliases))


def setup(app):
    app.add_search_language(SearchWords)
    app.connect("doctree-read", add_aliases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
