"""The book's long experiments: a tiny run of each, what is stored is found, resume, the command line."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hessinit_lite as hl
from hessinit_lite.lab import records
from hessinit_lite.lab.experiments import __main__ as command
from hessinit_lite.lab.experiments import again, cifar, gpt, mnist, practice, redraws
from hessinit_lite.lab.records import (
    KNOWN,
    answered,
    available,
    choosing,
    counting,
    fingerprint,
    label,
    provenance,
    rounded,
)
from hessinit_lite.lab.results import Results

EXPERIMENTS = Path(redraws.__file__).parent

TINY = {"data": "digits", "depth": 2, "width": 8, "activation": "relu", "seed": 0, "epochs": 1, "evaluate": True}


class TestMnist:
    def test_a_tiny_run(self):
        runs = [["he", 0.01], ["spectral 1", 0.01], ["he", 1e9]]
        answer = mnist.experiment(**TINY, runs=runs)
        assert set(answer["starts"]) == {"he", "spectral 1"} and len(answer["epoch"]) == 3
        assert answer["starts"]["spectral 1"][:2] == pytest.approx([1, 1], rel=0.02)
        found = mnist.collected([({**TINY, "runs": runs}, answer)])
        assert found["relu", "he", 0.01]["epoch"].shape == (1,)

    def test_the_loss_is_that_of_train(self):
        data = mnist.load("digits")
        model, _, off = mnist.fresh(data, 2, 8, "relu", "he", seed=0)
        run = hl.train(model, data, 0.1, 44, mnist.BATCH, seed=0)
        answer = mnist.experiment(**TINY, runs=[["he", 0.1]])
        assert off == 1.0 and answer["epoch"][0] == pytest.approx(float(run.losses.mean()), rel=1e-4)
        assert answer["train"][0] == pytest.approx(mnist.mean_loss(model, data.train), rel=1e-4)

    def test_the_first_pictures_alone(self):
        few = mnist.experiment(**TINY, runs=[["he", 0.1]], pictures=320)
        assert few["epoch"] != mnist.experiment(**TINY, runs=[["he", 0.1]])["epoch"]

    def test_best_targets_of_a_parabola(self):
        logs = np.log(mnist.TARGETS)
        losses = np.stack([np.exp((logs - np.log(12)) ** 2), np.exp(logs), np.exp(-logs)], 1)
        best = mnist.best_targets(losses)
        assert best[0] == pytest.approx(12) and np.isnan(best[1:]).all()

    def test_a_rule_that_holds_is_found(self):
        rates, targets = [0.003, 0.01, 0.03], np.array(mnist.TARGETS)
        losses = [np.log(targets * rate / 0.3) ** 2 + 1 for rate in rates]
        rows = np.exp(np.array([np.ones(3), *np.array(losses).T]))  # He's, then the targets
        runs = [[start, rate] for start in range(len(rows)) for rate in rates]
        rule = mnist.fitted([({"runs": runs}, {"epoch": rows.ravel().tolist()})])
        assert rule.b == pytest.approx([1]) and rule.c == pytest.approx([0.3])
        assert mnist.excess(rule, 0.3)["c / rate"] == pytest.approx(1)

    def test_differences_are_paired_and_counted(self):
        found = {("relu", "he", 0.1): {"epoch": np.array([1.0, 2.0, 3.0])},
                 ("relu", "torch", 0.1): {"epoch": np.array([1.5, 2.6, 3.4])},
                 ("relu", "lsuv", 0.1): {"epoch": np.array([1.5, np.inf, 3.4])},
                 ("tanh", "glorot", 0.1): {"epoch": np.array([1.0, 1.0, 1.0])}}
        one, ten = mnist.minus_he(found), mnist.minus_he(found, comparisons=10)
        assert set(one) == {"torch"} and one["torch"].mean == pytest.approx(0.5)
        assert ten["torch"].low < one["torch"].low < one["torch"].high < ten["torch"].high
        assert mnist.signed(None) == ""

    def test_rows_of_runs_that_diverged(self):
        values = {"epoch": [1.0, np.inf], "train": [1, 1], "accuracy": [0.5, 0.5]}
        values |= {"smallest": [89.0, 89.0], "largest": [260.0, 260.0], "off": [1.0, 2.0]}
        (row,) = mnist.loss_rows({("relu", "he", 0.1): {key: np.array(v) for key, v in values.items()}})
        assert (row["loss"], row["missed"], row["norms"]) == ("1 diverge", "1/2", "89 to 260")

    def test_walk(self):
        walk = mnist.walk(depth=3, seed=0, width=16)
        assert walk.missed < 0.02 and walk.off_law < 0.5 and walk.over_bound < 1.02
        assert max(walk.decades) < 1

    def test_the_stored_answers_are_those_of_the_settings(self):
        found = mnist.stored()
        assert len(found.table) == 22 and len(found.shorter) == 4 and len(found.best) == 10
        assert {len(of["epoch"]) for of in found.table.values()} == {10}
        assert sum(bool(pairs) for pairs in found.grids.values()) == 7


class TestCifar:
    SETTING = {"activation": "relu", "seed": 0, "width": 2, "samples": 8}

    def test_a_tiny_run(self):
        data = cifar.pictures("quick")
        settings = [{**self.SETTING, "scheme": s, "lr": 0.01, "steps": 10} for s in ("lecun", "normal 0.1")]
        answers = [cifar.experiment(**setting, data=data) for setting in settings]
        found = cifar.collected(zip(settings, answers))
        assert found["relu", "lecun"]["gradient"].shape == (1, 21)
        assert found["relu", "lecun"]["curve"].shape == (1, 10) and found["relu", "lecun"]["factor"].isnan()

    def test_bounds_hold(self):
        model, batch, factor = cifar.start(cifar.pictures("quick"), "relu", "hessian 1", 0, 2, 8)
        found = cifar.bounds(model, batch)
        assert factor > 1 and found.whole <= 1.001 * found.bound <= 1.002 * found.total
        assert found.largest < 1.02

    def test_lenet(self):
        run = cifar.lenet_run(seed=0, lr=0.01, points=2, every=3, samples=8)
        assert run["steps"] == [0, 3] and [len(run[key]) for key in ("gradient", "hessian", "loss")] == [2, 2, 2]
        assert len(run["layers"]) == len(run["hessian"][0]) == 5

    def test_density_integrates_to_one(self):
        grid = torch.linspace(-10, 10, 2001, dtype=torch.float64)
        density = cifar.density(torch.tensor([1e-3, 1.0, 1e3]), grid)
        assert float(density.sum() * 0.01) == pytest.approx(1, abs=1e-3)
        assert cifar.in_band(torch.tensor([0.5, 1.0, 10.0, 11.0])) == 50

    def test_the_stored_answers_are_those_of_the_settings(self):
        found = cifar.stored()
        assert len(found.densities) == 15 and not found.trainings and len(found.narrow) == 9
        assert len(found.lenet) == 2 and len(found.lenet_mnist) == 13 and len(found.first_steps) == 1


class TestRecords:
    def test_other_data_has_another_fingerprint(self):
        digits = hl.digits(standardize=False)
        assert f"digits sha256:{fingerprint(digits)}" == label("digits") == KNOWN["digits"]
        other = hl.Data("other", (digits.train[0] * 0.9, digits.train[1]), digits.test)
        assert fingerprint(other) != fingerprint(digits)

    def test_only_what_is_stored(self, tmp_path):
        stored = Results("squares", "full", tmp_path)
        square = lambda x: x**2
        assert answered(stored, square, [{"x": 2}]) == [({"x": 2}, 4)]
        assert answered(stored, square, [{"x": 2}, {"x": 3}], compute=False) == [({"x": 2}, 4)]
        assert max(map(len, provenance([stored] * 2).splitlines())) <= 79

    def test_a_choice_is_computed_and_the_rest_is_said_to_be_left(self, tmp_path, capsys):
        stored, sums = Results("sums", "full", tmp_path), lambda x, y: x + y
        settings = [{"x": x, "y": y} for x in (1, 2) for y in (1, 2.5)]
        with choosing({"x": "2"}):
            assert [answer for _, answer in answered(stored, sums, settings)] == [3, 4.5]
        with choosing({"y": "2.5"}, compute=False):
            assert len(answered(stored, sums, settings)) == len(stored) == 2
        with choosing({"z": "1"}):  # no setting has it
            answered(stored, sums, settings)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "sums: 0 of 4 answers are stored; 2 of 2 chosen ones are left"
        assert lines[1] == "  y: 1 (1), 2.5 (1)"
        assert lines[2].startswith("sums: 2 of 4 answers are stored; 1 of 2 chosen ones are left, about 0 min")
        assert lines[3:] == ["sums: 2 of 4 answers are stored; none is chosen", "  x: 1 (2), 2 (2)", "  y: 1 (2), 2.5 (2)"]
        assert [answer for _, answer in answered(stored, sums, settings)] == [2, 3.5, 3, 4.5]  # the choice is over

    def test_data_that_cannot_be_had_are_left_out(self, monkeypatch, capsys):
        def nothing(standardize):
            raise hl.DataUnavailable("no network")

        monkeypatch.setitem(records.LOADERS, "nowhere", nothing)
        settings = [{"data": "digits"}, {"data": "nowhere"}]
        assert available(settings, lambda setting: setting["data"]) == settings[:1]
        assert "no network" in capsys.readouterr().out

    def test_rounded(self):
        assert rounded([1 / 3, torch.tensor(2e-10)]) == [0.333333, 2e-10]

    def test_an_interrupted_run_goes_on(self, tmp_path):
        asked = []

        def experiment(**setting):
            asked.append(setting["seed"])
            if len(asked) == 2:
                raise KeyboardInterrupt
            return mnist.experiment(**setting)

        settings = [{**TINY, "seed": seed, "runs": [["he", 0.1]]} for seed in range(2)]
        with pytest.raises(KeyboardInterrupt):
            answered(Results("tiny", "full", tmp_path), experiment, settings)
        pairs = answered(Results("tiny", "full", tmp_path), experiment, settings)
        assert asked == [0, 1, 1] and len(pairs) == 2


class TestCommandLine:
    def test_a_run_says_where_the_results_lie(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        for name in ("GRIDS", "CHOOSE", "SWEPT", "JUDGED"):
            monkeypatch.setattr(mnist, name, {**getattr(mnist, name)})
        small = mnist.grid_settings("digits", 2, 8, 1, 1, [0.01, 0.1])
        monkeypatch.setitem(mnist.GRIDS, "quick", {"tiny": small})
        monkeypatch.setattr(mnist, "table_settings", lambda size: [{**TINY, "runs": [["he", 0.01]]}])
        monkeypatch.setitem(mnist.CHOOSE, "quick", range(1))
        monkeypatch.setitem(mnist.SWEPT, "quick", [("relu", "he")])
        monkeypatch.setitem(mnist.JUDGED, "quick", [("relu", "he")])
        monkeypatch.setattr(mnist, "JUDGE", range(10, 11))
        assert command.main(["mnist"]) == 0
        assert str(tmp_path.resolve()) in capsys.readouterr().out
        assert {path.name for path in tmp_path.glob("12-mnist*.json")} == {"12-mnist-quick.json", "12-mnist-rates-quick.json"}

    def test_some_settings_alone(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        monkeypatch.setattr(redraws, "tests", lambda **setting: {"row 1": [0.0, 1.0]})
        assert command.main(["redraws", "--left"]) == 0 and not list(tmp_path.iterdir())
        assert "4 of 4 chosen ones are left" in capsys.readouterr().out
        assert command.main(["redraws", "--only", "activation=tanh", "seed=1"]) == 0
        assert "1 of 1 chosen ones are left" in capsys.readouterr().out
        assert Results("paper-table-1", "quick", fresh=False).items()[0][0]["activation"] == "tanh"

    @pytest.mark.parametrize("arguments, text", [(["redraws", "--only", "seed"], "KEY=VALUE"),
                                                 (["gpu", "--left"], "--minutes")])
    def test_a_choice_that_cannot_be_is_refused(self, arguments, text, capsys):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert text in capsys.readouterr().err

    def test_an_unknown_name_is_refused(self):
        done = subprocess.run([sys.executable, "-m", "hessinit_lite.lab.experiments", "imagenet"],
                              capture_output=True, text=True)
        assert done.returncode == 2 and "imagenet" in done.stderr and "mnist" in done.stderr
        assert "Traceback" not in done.stderr

    def test_help_in_a_process_of_its_own(self):
        done = subprocess.run([sys.executable, "-m", "hessinit_lite.lab.experiments", "--help"],
                              capture_output=True, text=True)
        assert done.returncode == 0 and "--size" in done.stdout


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXPERIMENTS.glob("*.py"))
                                  if "\ndef stored(" in (text := path.read_text()) and "answered(" in text])
def test_stored_answers_are_found_on_a_machine_with_other_data(name, monkeypatch, tmp_path):
    """A text that ships with Python follows its version, and pictures need not be here: nothing that is read asks."""
    module = importlib.import_module(f"hessinit_lite.lab.experiments.{name}")
    monkeypatch.setenv("HESSINIT_DATA", str(tmp_path))
    with counting() as asked:
        module.stored()
    if not asked:
        pytest.skip("it reads its file as it is")
    before = [sum(setting in stored for setting in settings) for stored, settings in asked]
    assert sum(before) > 0
    for place in (gpt, practice, again, records):
        for maker in {"text", "label"} & vars(place).keys():
            monkeypatch.setattr(place, maker, lambda *_: "of another machine")
    with counting() as asked:
        module.stored()
    assert [sum(setting in stored for setting in settings) for stored, settings in asked] == before
