"""Words and visible lines of code by chapter: python book/_tools/counts.py [REVISION ...]

A column pair for each revision of the repository (git's names), or for the files as they are. Words are what
stands between spaces in the text's cells; a formula counts by its pieces. Programs in exercises and lines that
only open or close a box are left out. Visible is a line of code, neither blank nor a comment, in a cell that
the page does not fold; the first cell, the same in every notebook, is not counted. A chapter that was split is
one row: its pages have its number and a letter.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import nbformat

BOOK = Path(__file__).resolve().parent.parent
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
BOX = re.compile(r"\s*(`{3,}|:{3,}|:\w+:)")


def words(source):
    """Words of a Markdown cell."""
    text = re.sub(r"(?ms)^```python$.*?^```$", "", source)
    return sum(len(line.split()) for line in text.splitlines() if not BOX.match(line))


def visible_lines(cell):
    """Lines of code that the page shows of a code cell."""
    if FOLDED & set(cell.metadata.get("tags", [])):
        return 0
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell.source.splitlines())


def counts(text):
    """(words, visible lines of code) of a notebook's JSON."""
    cells = nbformat.reads(text, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    return (sum(words(cell.source) for cell in cells if cell.cell_type == "markdown"),
            sum(map(visible_lines, code[1:])))


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=BOOK.parent, check=True, capture_output=True, text=True).stdout


def notebooks(revision):
    """(file name, JSON) of every notebook of the book; revision None: as they are."""
    if revision is None:
        for path in sorted(BOOK.glob("*.ipynb")):
            yield path.name, path.read_text(encoding="utf-8")
        return
    for path in git("ls-tree", "--name-only", revision, "book/").split():
        if path.endswith(".ipynb"):
            yield Path(path).name, git("show", f"{revision}:{path}")


def main(revisions):
    found = defaultdict(dict)
    for revision in revisions:
        for name, text in notebooks(revision):
            number = re.match(r"(\d\d)[a-z]?-", name)
            row = number[1] if number else Path(name).stem
            before = found[row].get(revision, (0, 0))
            found[row][revision] = tuple(map(sum, zip(before, counts(text))))
    together = {revision: tuple(map(sum, zip(*(row[revision] for row in found.values() if revision in row))))
                for revision in revisions}
    print("chapter", *(f"{revision or 'as it is'}: words, lines" for revision in revisions), sep="\t")
    for name, row in [*sorted(found.items()), ("together", together)]:
        cells = (row.get(revision, ("–", "–")) for revision in revisions)
        print(name, *(f"{a}, {b}" for a, b in cells), sep="\t")


if __name__ == "__main__":
    main(sys.argv[1:] or [None])
