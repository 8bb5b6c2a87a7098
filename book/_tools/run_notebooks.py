"""Run the chapters again and store their outputs: python book/_tools/run_notebooks.py [NAME ...]

Cells tagged `live` need a running kernel, so no output is kept for them, and no widget state at all.
Results go to the module's folder of stored results. With HESSINIT_SIZE=full the experiments have the
paper's size, and only their results are kept: the chapters show the quick run.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

BOOK = Path(__file__).resolve().parent.parent
os.environ.setdefault("HESSINIT_RESULTS", str(BOOK.parent / "hessinit_lite" / "stored"))
FULL = os.environ.get("HESSINIT_SIZE") == "full"


def run(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None if FULL else 1800, store_widget_state=False, coalesce_streams=True,
                   resources={"metadata": {"path": BOOK}}).execute()
    if FULL:
        return
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps
        if cell.cell_type == "code":  # progress bars are gone when the cell is done
            cell.outputs = [o for o in cell.outputs if not any("widget" in kind for kind in o.get("data", {}))]
        if "live" in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sorted(BOOK.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            print(path.name, flush=True)
            run(path)
