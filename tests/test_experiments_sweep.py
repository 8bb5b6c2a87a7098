"""Chapter 11's map of targets and rates: a tiny run, what is stored, and what the chapter says of it."""

import statistics

import pytest
import torch.nn.functional as F

import hessinit_lite as hl
from hessinit_lite.lab.experiments import sweep


def test_a_start_is_at_its_target():
    batch = hl.digits().batch(128, hl.seeded(0))
    model, draws = sweep.start(hl.Data("some", batch, batch), 0.5, seed=0, depth=4, width=16)
    assert draws >= 1
    assert list(hl.layer_norms(model, F.cross_entropy, batch).values()) == pytest.approx([0.5] * 4, rel=0.02)


def test_a_target_out_of_reach_is_said_to_be(monkeypatch):
    monkeypatch.setattr(sweep, "DRAWS", 2)
    batch = hl.digits().batch(16, hl.seeded(0))
    with pytest.raises(RuntimeError, match="target 1e\\+30 was not reached in 2 draws"):
        sweep.start(hl.Data("some", batch, batch), 1e30, seed=0, depth=3, width=8)


def test_losses_are_those_of_full_batches_and_end_where_they_overflow():
    answer = sweep.experiment(1.0, [0.03, 1e6], [0, 1], steps=10)
    good, bad = answer["losses"]
    assert [len(run) for run in good + bad] == [3] * 4
    assert all(run[-1] < run[0] for run in good) and all(run[0] is not None and run[-1] is None for run in bad)
    batch = hl.digits().batch(128, hl.seeded(0))
    model, _ = sweep.start(hl.Data("some", batch, batch), 1.0, seed=1)
    losses = hl.train(model, hl.Data("some", batch, batch), 0.03, 11, batch_size=128).losses
    assert good[1] == pytest.approx(losses[::5].tolist(), rel=0.01)


def test_a_run_is_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
    monkeypatch.setitem(sweep.TARGETS, "quick", (1.0,))
    monkeypatch.setitem(sweep.RATES, "quick", (0.1,))
    ((setting, answer),) = sweep.run("quick")
    assert setting["target"] == 1.0 and len(answer["losses"]) == 1
    assert len(hl.Results(sweep.NAME, "quick", fresh=False)) == 1


def test_the_stored_map_is_complete():
    assert [setting for setting, _ in sweep.stored()] == sweep.settings("full")


def test_the_figure_is_what_is_stored():
    found = sweep.figure()
    for column, curvature, (_, answer) in zip(found["losses"], found["curvature"], sweep.stored()):
        assert column == answer["losses"] and curvature == statistics.median(answer["curvature"])
