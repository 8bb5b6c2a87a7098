"""The chapters: every cell runs, stored text is what comes out, and what is stored is clean."""

import datetime
import re

import nbformat
import other_machines
import pytest
import second_device
from other_machines import BOOK, NOTEBOOKS, UNDER_NBVAL, nbval

CHAPTERS = [path for path in NOTEBOOKS if path.stem != "results"]  # that page teaches nothing, it reports


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_live(cell):
    return "live" in cell.metadata.get("tags", [])


def is_checked(cell):
    return "nbval-check-output" in cell.metadata.get("tags", [])


def test_there_are_chapters():
    assert NOTEBOOKS


def today(mode):
    """A notebook and an offset of the seeds: in three weeks all come up in every mode; the weekly workflow runs all."""
    day = datetime.date.today().toordinal() + 10 * other_machines.MODES.index(mode)
    return NOTEBOOKS[day % len(NOTEBOOKS)], other_machines.OFFSETS[day % len(other_machines.OFFSETS)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_nbval(path, tmp_path):
    """Slider figures draw the corners of their axes; the weekly workflow draws every frame.

    What is stored must come out under all settings, so today's notebooks run under those only.
    """
    mode = next((mode for mode in UNDER_NBVAL if mode != "stored" and today(mode)[0] == path), "stored")
    settings = UNDER_NBVAL[mode] | other_machines.only_corners(tmp_path / "ipython")
    done = nbval(path, BOOK, tmp_path, settings)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.fixture
def second():
    try:
        second_device.register()
    except second_device.Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("mode", [mode for mode in other_machines.MODES if mode not in UNDER_NBVAL])
def test_one_notebook_a_day_as_on_other_machines(mode, request):
    if mode == "device":
        request.getfixturevalue("second")
    path, offset = today(mode)
    assert other_machines.run(path, mode, offset) == [], f"{path.stem}, seeds shifted by {offset}" * (mode == "seeds")


def test_a_claim_of_one_draw_and_a_mixed_device_are_found(tmp_path, second):
    """The test above could let everything pass."""
    cells = [
        "import subprocess, sys, torch",
        other_machines.DEVICE,
        "generator = torch.Generator().manual_seed(0)\nassert torch.rand(1, generator=generator) < 0.5",  # it is 0.496
        "torch.manual_seed(0)\nassert torch.rand(1) < 0.5",
        "program = 'import torch; assert torch.rand(1, generator=torch.Generator().manual_seed(0)) < 0.5'\n"
        "subprocess.run([sys.executable, '-c', program], check=True, stderr=subprocess.DEVNULL)",
        "torch.ones(2, device=device) + torch.ones(2)",
        "torch.ones(2, device=device).numpy()",
    ]
    path = tmp_path / "draw.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    found = {mode: [re.match(r"cell (\d)", each)[1] for each in other_machines.run(path, mode, offset=7)]
             for mode in ("seeds", "device")}
    assert found == {"seeds": ["2", "3", "4"], "device": ["5", "6"]}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapters_choose_their_device_in_the_line_that_other_modes_replace(path):
    assert sum(other_machines.DEVICE in cell.source for cell in code_cells(nbformat.read(path, 4))) == 1


def test_nbval_fails_when_a_stored_value_is_changed(tmp_path):
    """The shortest head of a chapter that ends with a checked number, run as stored and with the number changed."""
    path = NOTEBOOKS[0]
    notebook = nbformat.read(path, 4)
    last = next(i for i, cell in enumerate(notebook.cells)
                if is_checked(cell) and re.search(r"\d", cell.outputs[0].text))
    notebook.cells = notebook.cells[:last + 1]
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)
    unchanged = nbval(copy, tmp_path, tmp_path, UNDER_NBVAL["stored"])
    assert unchanged.returncode == 0, unchanged.stdout

    output = notebook.cells[last].outputs[0]
    output.text = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), output.text, count=1)
    nbformat.write(notebook, copy)
    changed = nbval(copy, tmp_path, tmp_path, UNDER_NBVAL["stored"])
    assert changed.returncode == 1 and "1 failed" in changed.stdout, changed.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestStored:
    def test_cells_ran_from_top_to_bottom(self, path):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        counts = [cell.execution_count for cell in code_cells(notebook) if not is_live(cell)]
        assert None not in counts and counts == sorted(counts)

    def test_outputs_are_clean(self, path):
        """No errors, no warnings, no widgets that need a kernel, no folder of the machine that ran them."""
        notebook = nbformat.read(path, 4)
        assert "widgets" not in notebook.metadata
        for cell in code_cells(notebook):
            for output in cell.outputs:
                assert output.output_type != "error"
                assert output.get("name") != "stderr", output.text
                data = output.get("data", {})
                assert not any("widget" in kind for kind in data)
                text = output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")
                assert not re.search(r"(?<![\w/])/(home|root|tmp|work|Users|content|usr)/", text)
                assert "Warning" not in output.get("text", "")

    def test_what_is_checked_prints(self, path):
        """A checked cell without text would check nothing; figures and timings are never checked."""
        cells = code_cells(nbformat.read(path, 4))
        checked = [cell for cell in cells if is_checked(cell)]
        assert len(checked) >= 3
        for cell in checked:
            (output,) = cell.outputs
            assert output.output_type == "stream" or "hessinit-table" in output.data["text/html"]
            assert not re.search(r"time\.|perf_counter|savefig", cell.source)
        assert not any("NBVAL" in cell.source for cell in cells)  # readers need not see how the tests are told


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
class TestChapter:
    def test_live_cells_are_stored_without_output(self, path):
        live = [cell for cell in code_cells(nbformat.read(path, 4)) if ".live(" in cell.source]
        assert live and all(is_live(cell) and cell.outputs == [] for cell in live)
        assert all("remove-output" in cell.metadata.tags for cell in live)

    def test_explorables_have_depths_and_all_activations(self, path):
        """Eight depths or more up to at least 50, and the eight activations."""
        pages = [output["data"]["text/html"] for cell in code_cells(nbformat.read(path, 4))
                 for output in cell.outputs if "hessinit-explore" in output.get("data", {}).get("text/html", "")]
        assert pages
        assert all(len(page) < 400_000 for page in pages)
        assert any(int(re.search(r'name="depth"[^>]*max="(\d+)"', page)[1]) >= 7 for page in pages if 'name="depth"' in page)
        for name in ("linear", "tanh", "sigmoid", "relu", "leaky_relu", "selu", "gelu", "silu"):
            assert any(re.search(rf"<option[^>]*>{name}</option>", page) for page in pages)

    def test_every_exercise_has_a_solution(self, path):
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
        exercises = re.findall(r"\{exercise\}[^\n]*\n:label: (\S+)", text)
        assert len(exercises) >= 2 and sorted(exercises) == sorted(re.findall(r"\{solution-start\} (\S+)", text))
        for heading in ("What you will learn", "Where it fails", "Take-away"):
            assert heading.lower() in text.lower()
