"""How chapters are written: cells that a reader takes in at a glance, and nothing said twice."""

import ast
import re
import subprocess
import sys
from collections import defaultdict

import nbformat
import pytest
from other_machines import BOOK, NOTEBOOKS

SHOWN, ANY, COLUMNS = 15, 25, 79  # lines of a visible cell, lines of any cell, columns of a line
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


def code_cells(path):
    """(index, cell, lines that are not blank) of all code cells but the first, which is the same in each notebook."""
    found = [(i, cell) for i, cell in enumerate(nbformat.read(path, 4).cells) if cell.cell_type == "code"]
    return [(i, cell, [line for line in cell.source.splitlines() if line.strip()]) for i, cell in found[1:]]


def is_folded(cell):
    return bool(FOLDED & set(cell.metadata.get("tags", [])))


def printed(output):
    """The text that a page shows: not that of a report or slider figure, which is shown as HTML."""
    data = output.get("data", {})
    page = data.get("text/html", "")
    as_text = not page or ("hessinit-table" in page and "hessinit-report" not in page)
    return output.get("text", "") or (data.get("text/plain", "") if as_text else "")


def padding(source):
    """What pads text by hand: a width behind the colon of an f-string, ljust, rjust, center."""
    for node in ast.walk(ast.parse(re.sub(r"(?m)^(\s*)%.*$", r"\1pass", source))):
        if isinstance(node, ast.FormattedValue) and node.format_spec:
            spec = "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.format_spec.values)
            if re.match(r"(.?[<>^])?[ +-]?#?0?[1-9]", spec):
                yield spec
        if isinstance(node, ast.Attribute) and node.attr in ("ljust", "rjust", "center"):
            yield node.attr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestCells:
    def test_visible_cells_are_short(self, path):
        assert [(i, len(lines)) for i, cell, lines in code_cells(path)
                if len(lines) > SHOWN and not is_folded(cell)] == []

    def test_no_cell_is_long(self, path):
        assert [(i, len(lines)) for i, _, lines in code_cells(path) if len(lines) > ANY] == []

    def test_lines_fit_the_page(self, path):
        assert [(i, line) for i, _, lines in code_cells(path) for line in lines if len(line) > COLUMNS] == []
        assert [(i, line) for i, cell, _ in code_cells(path) for output in cell.outputs
                for line in printed(output).splitlines() if len(line) > COLUMNS] == []

    def test_tables_are_not_padded_by_hand(self, path):
        assert [(i, *padding(cell.source)) for i, cell, _ in code_cells(path) if any(padding(cell.source))] == []


def test_no_helper_is_defined_in_two_notebooks():
    homes = defaultdict(set)
    for path in NOTEBOOKS:
        for _, cell, _ in code_cells(path):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    homes[node.name].add(path.stem)
    assert {name: sorted(found) for name, found in homes.items() if len(found) > 1} == {}


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff_finds_nothing_in_the_notebooks(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command.split(), "-q", "--output-format", "concise", *NOTEBOOKS]
                          if command == "check" else
                          [sys.executable, "-m", "ruff", *command.split(), *NOTEBOOKS], cwd=BOOK,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_question_has_its_answer_right_behind_it(path):
    text = "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    boxes = re.findall(r"^```\{admonition\} (Predict|Answer)\n:class: (\w+)", text, re.M)
    assert [name for name, _ in boxes] == ["Predict", "Answer"] * (len(boxes) // 2)
    assert all(kind == {"Predict": "tip", "Answer": "dropdown"}[name] for name, kind in boxes)
    assert len(re.findall(r"\n```\n+```\{admonition\} Answer", text)) == len(boxes) // 2


def test_the_stored_live_figures_carry_the_scripts_of_today():
    done = subprocess.run([sys.executable, BOOK / "_tools" / "store_live.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run book/_tools/store_live.py\n{done.stdout}{done.stderr}"
