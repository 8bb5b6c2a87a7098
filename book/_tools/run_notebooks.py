"""Run the chapters again and store their outputs: python book/_tools/run_notebooks.py [--times] [NAME ...]

Cells tagged `live` need a running kernel, so no output is kept for them, and no widget state at all.
With HESSINIT_SIZE=full the experiments have the paper's size, their results go to the module's folder of
stored results, and nothing else is kept: the chapters show the quick run.
With --times the outputs stay as they are. How long each chapter took is kept in
book/reproducibility/times.json, its table in times.md beside it.
"""

import datetime
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version

import nbformat
import notebook_log
from nbclient import NotebookClient
from notebook_log import BOOK

FULL = os.environ.get("HESSINIT_SIZE") == "full"
TIMES_ONLY = "--times" in sys.argv
STORED = BOOK.parent / "hessinit_lite" / "lab" / "stored"
os.environ["TQDM_DISABLE"] = "1"  # a stored output is no place for a progress bar
os.environ.setdefault("HESSINIT_RESULTS", str(STORED) if FULL else tempfile.mkdtemp())
TIMES = BOOK / "reproducibility" / "times.json"


def run(path):
    start = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None if FULL else 1800, store_widget_state=False, coalesce_streams=True,
                   resources={"metadata": {"path": BOOK}}).execute()
    if FULL:
        return
    note_time(path, time.perf_counter() - start)
    if TIMES_ONLY:
        return
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps
        if cell.cell_type == "code":  # progress bars are gone when the cell is done
            cell.outputs = [o for o in cell.outputs if not any("widget" in kind for kind in o.get("data", {}))]
        if "live" in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


def note_time(path, seconds):
    times = notebook_log.add(TIMES, path.name, {
        "seconds": round(seconds), "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(), "torch": version("torch")})
    rows = [(f"[]({name})", t["seconds"], f"{t['threads']} of {t['cores']} cores", t["python"], t["torch"], t["date"])
            for name, t in times.items()]
    together = ("all together", sum(t["seconds"] for t in times.values()), "", "", "", "")
    notebook_log.write_table(TIMES, "run_notebooks.py", ("notebook", "seconds", "threads", "Python", "torch", "run on"),
                             [*rows, together])


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--times"]
    for path in sorted(BOOK.glob("*.ipynb")):
        if not names or path.stem in names:
            print(path.name, flush=True)
            run(path)
