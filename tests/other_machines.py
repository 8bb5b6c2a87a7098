"""Run notebooks as they run elsewhere: python tests/other_machines.py MODE [--offset N] [--jobs N] [NAME ...]

    stored     as they are, under nbval: the checked cells print what is stored
    threads    the same with two threads
    processor  the same with the settings of torch, MKL and oneDNN that leave out what newer processors have
    seeds      with all seeds shifted by --offset: on a GPU the draws differ, so no assertion may rest on one
    device     with `device = "second"` in place of "cuda" (second_device.py): nothing mixes devices

Slider figures draw the corners of their axes only, but in the mode `stored`, which draws every frame.
Prints a line a notebook and what failed; ends with status 1 if anything did.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TESTS = Path(__file__).resolve().parent
BOOK = TESTS.parent / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
DEVICE = 'device = "cuda" if torch.cuda.is_available() else "cpu"'
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
UNDER_NBVAL = {
    "stored": ONE_THREAD,
    "threads": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},  # no spinning: others want the cores
    "processor": {**ONE_THREAD, "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE",
                  "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
MODES = (*UNDER_NBVAL, "seeds", "device")
OFFSETS = (1000, 2000, 3000, 4000, 5000)


def environment(results, **more):
    return {**os.environ, "HESSINIT_RESULTS": str(results), "HESSINIT_SIZE": "quick", **more}


def only_corners(folder):
    """The setting that makes IPython run startup/corners.py first, from a folder that it may write into."""
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    shutil.copy(TESTS / "startup" / "corners.py", startup)
    return {"IPYTHONDIR": str(folder)}


def nbval(path, folder, results, settings):
    """nbval in lax mode, in a process of its own: all cells must run, marked cells print what is stored."""
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout=1800", "-q", "-p", "no:cacheprovider",
               "--rootdir", str(folder), str(path)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(results, **settings))


def failures(path, results, settings, device=None):
    """What the cells raise: a line each. Cells go on after an error, so that all are seen."""
    notebook = nbformat.read(path, as_version=4)
    if device:
        for cell in notebook.cells:
            cell.source = cell.source.replace(DEVICE, f'device = "{device}"')
    python_path = os.pathsep.join([str(TESTS / "startup"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    NotebookClient(notebook, timeout=1800, allow_errors=True, resources={"metadata": {"path": str(BOOK)}}).execute(
        env=environment(results, **ONE_THREAD, PYTHONPATH=python_path, **settings))
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
                line = re.search(r"^-+> *\d+ *(.*)$", trace, re.M)
                found.append(f"cell {number}: {output.ename} {output.evalue[:200]} at {line and line[1]}")
    return found


def run(path, mode, offset=OFFSETS[0]):
    """What fails in a notebook in one of MODES, as lines of text: empty if nothing does."""
    with tempfile.TemporaryDirectory() as results:
        corners = only_corners(Path(results) / "ipython") if mode != "stored" else {}
        if mode == "seeds":
            return failures(path, results, {"SEED_OFFSET": str(offset), **corners})
        if mode == "device":
            return failures(path, results, {"SECOND_DEVICE": "1", **corners}, device="second")
        done = nbval(path, BOOK, results, UNDER_NBVAL[mode] | corners)
        return [] if done.returncode == 0 else (done.stdout[-5000:] + done.stderr[-2000:]).splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("names", nargs="*", help="stems of notebooks; default all")
    parser.add_argument("--offset", type=int, default=OFFSETS[0], help="what is added to every seed")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks side by side")
    options = parser.parse_intermixed_args()
    chosen = [path for path in NOTEBOOKS if not options.names or path.stem in options.names]

    def timed(path):
        start = time.perf_counter()
        return path, run(path, options.mode, options.offset), time.perf_counter() - start

    failed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for path, found, seconds in pool.map(timed, chosen):
            failed += bool(found)
            print(f"{path.stem}: {options.mode}, {seconds:.0f} s, {'failed' if found else 'passed'}", *found,
                  sep="\n    ", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
