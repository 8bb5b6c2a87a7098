"""The live panels under ipywidgets 8 (this environment's) and 7.7.1 (Colab's)."""

import os
import subprocess
import sys
from pathlib import Path

import ipywidgets
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Every live cell of every chapter, each control moved twice. Frames are not what is tested here: an
# empty drawing stands for each. The figure that a panel opens with is real in one run. Where controls
# are moved a drawing that only holds its values stands for each: test_explore.py draws the corners.
SCRIPT = """
import ast
import sys
import ipywidgets
import nbformat
import torch
import hessinit_lite as hl
from hessinit_lite.lab import explorable
from hessinit_lite.plots import to_svg

version, figures, *paths = sys.argv[1:]
draw_values = lambda figure, values, kind: f'<svg viewBox="0 0 1 1"><desc>{values}</desc></svg>'
draw = explorable.draw if figures == "real" else draw_values
empty = '<svg viewBox="0 0 1 1"></svg>'
panels = 0
for path in paths:
    names, own = {"hl": hl, "torch": torch, "device": "cpu"}, {}
    for cell in nbformat.read(path, 4).cells:
        tree = ast.parse("" if "%" in cell.source or cell.cell_type != "code" else cell.source)
        own |= {node.name: cell.source for node in tree.body[:1] if isinstance(node, ast.FunctionDef) and len(tree.body) == 1}
        if cell.cell_type == "code" and "hl.explore(" in cell.source:
            for name in own:  # the figure's function, where the chapter has its own
                if name + "," in cell.source:
                    exec(own[name], names)
            explorable.draw = lambda f, values, kind: empty if kind is to_svg else draw(f, values, kind)
            exec(cell.source, names)
        if "live" in cell.metadata.get("tags", []):
            *statements, last = cell.source.strip().splitlines()
            exec("\\n".join(statements), names)
            explorable.draw = draw
            panel = eval(last, names)
            *controls, message, figure = panel.children
            assert figure.value.startswith("<svg role=") and message.value == "", (path, message.value)
            explorable.draw = draw_values
            for control in controls:
                values = [value for _, value in control.options]
                for _ in range(2):  # the first time the picture changes for the stand-in's sake
                    before = figure.value.split(">", 1)[1]  # without its alternative text
                    control.value = values[(values.index(control.value) + 1) % len(values)]
                assert message.value == "" and figure.value.split(">", 1)[1] != before, (path, control.description)
            panels += 1
print(ipywidgets.__version__, "panels:", panels)
assert ipywidgets.__version__.startswith(version) and panels >= len(paths)
"""


def run_panels(version, figures, extra_path):
    notebooks = [path for path in sorted((ROOT / "book").glob("*.ipynb")) if path.stem != "results"]
    path = os.pathsep.join([*extra_path, str(ROOT)])
    command = [sys.executable, "-c", SCRIPT, version, figures, *map(str, notebooks)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_under_ipywidgets_8():
    assert ipywidgets.__version__.startswith("8.")
    run_panels("8.", "real", [])


def test_panels_under_ipywidgets_7(tmp_path_factory):
    """In a folder of its own in front of the path, so that this environment stays as it is."""
    folder = tmp_path_factory.mktemp("ipywidgets7")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder),
               "ipywidgets==7.7.1", "ipython_genutils==0.2.0"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"ipywidgets 7.7.1 cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    run_panels("7.7.1", "stand-ins", [str(folder)])
