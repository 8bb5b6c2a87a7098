"""The paper's numbers as data, the panels drawn beside ours, and the rules of the verdicts."""

import re

import pytest
import torch

from hessinit_lite.lab import paper
from hessinit_lite.lab.experiments import cifar, panels
from hessinit_lite.lab.paper import left, measured, statements
from hessinit_lite.lab.paper import panels as drawn
from hessinit_lite.lab.paper.verdict import Line, Verdicts, not_run, with_runs
from hessinit_lite.lab.results import SHIPPED, read, write


class TestReported:
    def test_every_table_and_figure_is_there(self):
        items = {row["item"] for row in paper.content()["rows"]}
        assert items == set(paper.content()["settings"])
        assert items == {"Table 1", "Table 2", *(f"Figure {n}" for n in range(1, 7))}
        panels_of = lambda item: {row.panel for row in paper.rows(item)}
        assert len(panels_of("Figure 1")) == 5 and len(panels_of("Figure 4")) == 3
        assert len(panels_of("Figure 5")) == 3 and len(panels_of("Figure 6")) == 3

    def test_each_density_has_six_layers_in_order(self):
        for item, count in (("Figure 1", 5), ("Figure 2", 3)):
            found = paper.rows(item, quantity="5, 50, 95 % of log10 value")
            assert len(found) == 6 * count
            for row in found:
                low, middle, high = row.value
                support = paper.one(item, row.panel, "support of log10 value", row.layer).value
                assert support[0] <= low < middle < high <= support[1]

    def test_curves_are_as_long_as_their_axis(self):
        for row in map(lambda each: paper.Reported(**each), paper.content()["rows"]):
            assert row.at is None or len(row.at) == len(row.value)

    def test_known_readings(self):
        assert paper.one("Figure 3", "right", "loss at the end").value == 0.467
        assert paper.one("Figure 6", "GoogleNet", "largest error", "conv1").value == 0.624
        assert paper.stated("Table 2")[0].startswith("dense net 128-128-10")

    def test_what_is_not_there_is_refused(self):
        with pytest.raises(ValueError, match="reports nothing"):
            paper.rows("Figure 7")
        with pytest.raises(ValueError, match="values of Table 1"):
            paper.one("Table 1", None, "seeds", None)


class TestVerdicts:
    def test_a_verdict_is_what_the_parts_say(self):
        line = lambda *met: Line("a", "b", "c", "d", met, "errata", "e").verdict
        assert line(True, True) == "yes" and line(True, False) == "in part" and line(False) == "no"
        assert not_run("a", "b", "c", "errata").verdict == "not run"
        one_run = Line("a", "b", "c", "d", (True,), "errata", "e")
        assert with_runs(one_run, 1).verdict == "not judged" and with_runs(one_run, 2).verdict == "yes"

    def test_a_table_is_escaped(self):
        shown = Verdicts([Line("<b>", "&", "c", "d", (True,), "12-mnist", "e")])
        assert "&lt;b&gt;" in shown._repr_html_() and '"12-mnist.html">12<' in shown._repr_html_()
        assert str(shown) == "<b>: yes"

    def test_the_rules_are_about_our_numbers(self, monkeypatch):
        """Another answer gives another verdict: Table 2's row at another loss, the densities at the paper's modes."""
        before = {line.item: line.verdict for line in measured.table_2()}
        other = paper.Reported("Table 2", "", "", "loss after 2 epochs", 0.27, 0)
        monkeypatch.setattr(measured, "one", lambda *_: other)
        after = {line.item: line.verdict for line in measured.table_2()}
        assert before["Table 2, relu Hessian-driven"] == "no"
        assert after["Table 2, relu Hessian-driven"] != "no"

    def test_an_order_must_hold_with_each_seed(self, monkeypatch):
        """Figure 1's losses as reported: yes; one seed the other way round: not that part."""
        verdict = lambda: next(line for line in measured.figures_1_2() if line.item == "Figure 1, losses").met
        reported = {p: paper.one("Figure 1", p, "loss at the end").value for p in panels.FIGURE_1}
        found = panels.stored()
        as_in_it = {(*case, 8): torch.full((2,), reported[p]) for p, case in panels.FIGURE_1.items()}
        monkeypatch.setattr(panels, "stored", lambda: found._replace(ends={**found.ends, **as_in_it}))
        assert verdict() == (True, True, True)
        as_in_it["relu", "lecun", 8] = torch.tensor([reported["b"], reported["a"] + 1])
        assert verdict() == (False, True, True)

    def test_densities_at_the_modes_are_near(self):
        modes = torch.tensor([row.value for row in paper.rows("Figure 2", "0.1", "mode of log10 value")])
        assert measured._near("Figure 2", "0.1", 10.0 ** modes[None]) == 6
        assert measured._near("Figure 2", "0.1", 10.0 ** (modes[None] + 2)) == 0
        assert measured._near("Figure 2", "0.1", None) is None

    def test_the_median_of_two_seeds_is_between_them(self):
        errors = torch.tensor([[[1.0, 10.0]], [[3.0, 50.0]]], dtype=torch.float64)  # [seeds, times, layers]
        assert measured.medians_by_layer(errors).tolist() == [2, 30]

    def test_every_figure_and_table_has_lines(self):
        items = " ".join(line.item for line in measured.lines())
        for item in paper.content()["settings"]:
            assert item in items
        assert all(line.rule and line.sample for line in measured.lines() if line.met)

    def test_every_statement_is_tried(self):
        found = statements.lines()
        items = " ".join(line.item for line in found)
        for number in (1, 2, 4, 5, 6, 9):
            assert re.search(rf"Remark {number}\b", items) or number == 1
        for name in ("Theorem 1", "Theorem 7", "Lemma 10", "Corollary 11", "Corollary 12", "Corollary 13", "(5)", "(8)",
                     "(13)", "Claim 1", "Claim 2", "Claim 3", "Claims 4, 5", "Claims 6, 7"):
            assert name in items
        verdicts = {line.item: line.verdict for line in found}
        assert verdicts["Corollary 13, (15)"] == verdicts["Remark 9"] == "no"
        assert verdicts["Lemma 10"] == verdicts["(5)"] == "yes"
        assert verdicts["Theorem 1"] == verdicts["Corollary 12, (14)"] == "in part"


class TestLeft:
    def test_an_answer_that_is_taken_away_is_missed(self, tmp_path, monkeypatch):
        of = lambda: {each.file: each for each in left.left() if each.experiment == "panels"}
        before = len(of()["paper-tracked"].missing)
        environments, records = read(SHIPPED / "paper-tracked-full.json")
        write(tmp_path / "paper-tracked-full.json", "paper-tracked", "full", environments, records[1:])
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        now = of()["paper-tracked"]
        assert now.settings == 3 and len(now.missing) == before + 1
        assert "seed" in now.which and now.time.endswith("min") and "panels --size full" in now.command

    def test_no_time_is_told_by_answers_of_another_size(self):
        trained = next(each for each in left.left() if each.file == "13-cifar")
        assert trained.unlike == sum(setting["steps"] > 100 for setting in trained.missing)


class TestPanels:
    def test_each_figure_is_drawn(self):
        found = panels.stored()
        ours = torch.rand(2, 10, 5).double()
        runs = [run for run in cifar.stored().lenet_mnist if not run["standardize"]]
        figures = [drawn.figure_1(found), drawn.figure_2(found), drawn.figure_3(runs),
                   drawn.figure_4(torch.rand(2, 16, 4)), drawn.figure_5({"c": {"outside": ours[0]}}),
                   drawn.figure_6({"GoogLeNet": ours}, range(10))]
        assert [len(figure.axes) for figure in figures] == [10, 6, 6, 4, 1, 3]

    def test_reported_bars_are_black_and_above_ours(self):
        axes = drawn.figure_1(panels.stored()).axes[0]
        black = [line for line in axes.lines if line.get_color() == "black"]
        assert len(black) == 12 and all(line.get_ydata()[0] % 1 > 0.5 for line in black)
