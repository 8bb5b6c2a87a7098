"""The house: which file may import which, what an import loads, and how code is written."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import hessinit_lite as hl

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hessinit_lite"
#: The core, in the order of its imports: a file imports only what stands before it.
CORE = ("models", "autograd", "losses", "spectrum", "curvature", "preconditioner", "critical", "blocks", "columns",
        "many_classes", "chain_rule", "variance", "schemes", "scaling", "principle", "sharded", "parallel")
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """[(module inside the package, names)] of a file's relative imports, wherever they stand."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [alias.name for alias in node.names]
            if node.module:
                found.append((".".join((*base, node.module)), names))
            else:
                found += [(".".join((*base, name)), []) for name in names]
    return found


def test_the_core_is_what_lies_on_top():
    on_top = {path.stem for path in PACKAGE.glob("*.py")}
    assert on_top == {*CORE, "plots", "tables", "__init__", "__main__"}


def lines_of_code(path):
    """Lines that Python runs: none of comments, docstrings and blanks."""
    text = path.read_text()
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {line for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in nothing
             for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_the_core_is_small():
    """Half as much again are docstrings, with an example each; what a reader has to hold in mind is this."""
    assert sum(lines_of_code(PACKAGE / f"{name}.py") for name in (*CORE, "plots")) <= 2600


def test_lines_of_code_are_counted_right(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('"""A\ntext."""\n\n# note\n\ndef f(x):\n    """One."""\n    return (\n        x + 1\n    )\n')
    assert lines_of_code(path) == 4


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_only_what_stands_before_it(name):
    allowed = CORE[: CORE.index(name)]
    assert {module for module, _ in imports(PACKAGE / f"{name}.py")} <= set(allowed)


def test_the_laboratory_stands_above_the_core():
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0]
        modules = {module.split(".")[0] for module, _ in imports(path)}
        if room in ("plots.py", "tables.py"):
            assert not modules
        if room == "diagnosis":
            assert "lab" not in modules, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_name_crosses_a_file(path):
    tree = ast.parse(path.read_text())
    private = [name for _, names in imports(path) for name in names if name.startswith("_")]
    modules = {alias.asname or alias.name for node in ast.walk(tree)
               if isinstance(node, ast.ImportFrom) and node.level and not node.module for alias in node.names}
    private += [f"{node.value.id}.{node.attr}" for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                and node.value.id in modules and node.attr.startswith("_") and not node.attr.startswith("__")]
    assert not private


def test_the_import_loads_nothing_that_only_figures_and_data_need():
    heavy = "matplotlib", "sklearn", "scipy", "pooch", "ipywidgets", "hessinit_lite.lab", "hessinit_lite.diagnosis"
    code = f"import sys, hessinit_lite; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", hl.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hl, name) is not None and name in dir(hl)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hl.nothing


@pytest.mark.parametrize("command", ["check .", "format --check hessinit_lite"])
def test_ruff_finds_nothing(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command.split()], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
