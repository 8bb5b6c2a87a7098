"""Store the live figures of the chapters anew, without running these: python book/_tools/store_live.py [--check]

A notebook's output carries the page's scripts, so it is as old as the scripts were when it ran. A cell that
only calls hl.laboratory depends on nothing else in its notebook. --check: only name the notebooks that are
out of date.
"""

import base64
import gzip
import io
import re
import sys
from pathlib import Path

import matplotlib.image
import nbformat

import hessinit_lite as hl

BOOK = Path(__file__).resolve().parents[1]


def unpacked(html):
    """The scripts as text, without the picture: what zlib and a machine's last digits change goes."""
    text = lambda packed: gzip.decompress(base64.b64decode(packed[0])).decode()
    html = re.sub("H4sI[A-Za-z0-9+/=]+", text, re.sub('src="data:[^"]*"', "", html))
    return re.sub(r"(\d\.\d{8})\d+", r"\1", html)  # a mean's last digits depend on the number of threads


def alike(stored, drawn):
    """Whether two pictures, base64 of PNG, differ in a few edges at most."""
    a, b = (matplotlib.image.imread(io.BytesIO(base64.b64decode(each)), "png") for each in (stored, drawn))
    return a.shape == b.shape and (abs(a - b) > 0.1).mean() < 0.01


def refresh(path):
    """Whether a stored output has been changed, in the notebook's file unless --check is given."""
    notebook, changed = nbformat.read(path, 4), False
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("hl.laboratory(") and cell.outputs:
            shown = eval(cell.source, {"hl": hl})
            data = cell.outputs[0].data
            html, picture = shown._repr_html_(), base64.b64encode(shown._repr_png_()).decode()
            same = unpacked(data["text/html"]) == unpacked(html) and data["text/plain"] == repr(shown)
            if not same or not alike(data["image/png"], picture):
                changed = True
                data["text/html"], data["text/plain"], data["image/png"] = html, repr(shown), picture
    if changed and "--check" not in sys.argv:
        nbformat.write(notebook, path)
    return changed


if __name__ == "__main__":
    found = [path.name for path in sorted(BOOK.glob("*.ipynb")) if refresh(path)]
    print("\n".join(found) or "all are up to date")
    sys.exit("--check" in sys.argv and bool(found))
