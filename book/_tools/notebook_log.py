"""A log with one entry a notebook, and its table for a page of the book.

The log is JSON and keeps the entries of notebooks that were not run this time; those of notebooks that are
gone are dropped. The table stands beside it in a file of the same name that ends in .md.
"""

import json
from pathlib import Path

BOOK = Path(__file__).resolve().parent.parent


def add(path, notebook, entry):
    """Put the entry of a notebook (its file name) into the log at `path`; returns the whole log."""
    log = json.loads(path.read_text()) if path.exists() else {}
    log[notebook] = entry
    log = {name: log[name] for name in sorted(log) if (BOOK / name).exists()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(log, indent=1) + "\n")
    return log


def write_table(path, script, columns, rows, below=()):
    """The log's table in Markdown. rows: cells; below: lines of text that follow it."""
    lines = [f"<!-- written by book/_tools/{script} -->",
             *("| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)), *below]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
