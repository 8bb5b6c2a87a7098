"""Open every chapter as Colab would, and write down how it went: python book/_tools/colab_check.py [NAME ...]

Each notebook is run alone in an empty folder, live panels included, by a kernel in an environment with
Colab's versions (colab-requirements.txt), from which the module is missing: the first cell has to install
it. A bare clone of this repository's last commit stands for the remote, so commit first. What the
install changed beside the module itself is an error.

    --python    an interpreter of Colab's version, python3.13
    --venv      where the environment is, or is made

Writes book/colab/log.json, where notebooks that are not run this time keep their entry, and the table of
it, log.md.

The environment of the book runs this script (it has nbclient); the kernels run in the other one.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import notebook_log
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from notebook_log import BOOK

sys.path.insert(0, str(BOOK / "_ext"))
from book_site import fill_repository  # noqa: E402

ROOT = BOOK.parent
REQUIREMENTS = Path(__file__).with_name("colab-requirements.txt")
LOG = BOOK / "colab" / "log.json"
SHOWN = ("torch", "numpy", "scipy", "matplotlib", "scikit-learn", "ipython", "ipykernel", "ipywidgets")


def make_environment(python, venv):
    if not (venv / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "-r", REQUIREMENTS], check=True)


def packages(venv):
    """{name: version} of what is installed, the module left out."""
    done = subprocess.run([venv / "bin" / "python", "-m", "pip", "list", "--format", "json"], check=True,
                          capture_output=True, text=True)
    return {each["name"].lower(): each["version"] for each in json.loads(done.stdout)
            if each["name"] != "hessinit-lite"}


def run(path, venv, remote, folder):
    """Seconds that the notebook took, and what went wrong ("" if nothing did)."""
    python = venv / "bin" / "python"
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "hessinit-lite"], check=True)
    notebook = nbformat.reads(fill_repository(path.read_text(encoding="utf-8"), remote.as_uri()), as_version=4)
    live = [cell for cell in notebook.cells if "live" in cell.metadata.get("tags", [])]
    start = time.perf_counter()
    try:
        NotebookClient(notebook, timeout=1800, kernel_name="colab",
                       resources={"metadata": {"path": str(folder)}}).execute()
    except CellExecutionError as error:
        return time.perf_counter() - start, f"{error.ename}: {error.evalue}".splitlines()[0]
    panels = [any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in cell.outputs)
              for cell in live]
    problem = "" if all(panels) else "a live panel is missing"
    return time.perf_counter() - start, problem


def note(notebook, seconds, problem, python, versions):
    log = notebook_log.add(LOG, notebook, {"seconds": round(seconds), "problem": problem,
                                           "date": datetime.date.today().isoformat()})
    rows = [(f"[]({name})", entry["seconds"], entry["problem"] or "runs to its end, panels included", entry["date"])
            for name, entry in log.items()]
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN)
    notebook_log.write_table(LOG, "colab_check.py", ("notebook", "seconds", "", "tried on"), rows, [
        "", f"{os.cpu_count()} CPU cores, Python {python}, {shown}. Not run on a GPU."])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="chapters; default all")
    parser.add_argument("--python", default="python3.13")
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "colab-environment")
    options = parser.parse_args()
    make_environment(options.python, options.venv)
    versions = packages(options.venv)
    python = subprocess.run([options.venv / "bin" / "python", "-V"], capture_output=True, text=True).stdout.split()[1]
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, work / "remote.git"], check=True)
        kernel = work / "jupyter" / "kernels" / "colab"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps({
            "argv": [str(options.venv / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "Colab's versions", "language": "python"}))
        os.environ["JUPYTER_PATH"] = str(work / "jupyter")
        for path in sorted(BOOK.glob("*.ipynb")):
            if options.names and path.stem not in options.names:
                continue
            folder = work / path.stem
            folder.mkdir()
            seconds, problem = run(path, options.venv, work / "remote.git", folder)
            changed = {name for name, version in packages(options.venv).items() if versions.get(name) != version}
            if changed:
                problem = f"the install changed {', '.join(sorted(changed))}"
            failed += bool(problem)
            note(path.name, seconds, problem, python, versions)
            print(path.stem, f"{seconds:.0f} s", problem or "ok", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
