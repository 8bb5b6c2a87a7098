"""Stored results: continued, checked, never lost."""

import json
import math

import pytest

from hessinit_lite import results
from hessinit_lite.results import Results, size_of_experiments

SETTINGS = [{"scheme": scheme, "lr": lr} for scheme in ("he", "glorot") for lr in (0.1, 0.01)]


class Experiment:
    """Counts its calls; stops at the setting that it is told."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def __call__(self, scheme, lr):
        if (scheme, lr) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((scheme, lr))
        return {"loss": lr if scheme == "he" else math.inf, "norms": [lr, math.nan]}


def test_answers_come_in_the_order_of_the_settings(tmp_path):
    found = Results("x", "full", tmp_path).run(Experiment(), SETTINGS)
    assert [answer["loss"] for answer in found] == [0.1, 0.01, math.inf, math.inf]
    assert math.isnan(found[0]["norms"][1])
    again = Results("x", "full", tmp_path)
    assert [a["loss"] for a in again.answers(SETTINGS[::-1])] == [math.inf, math.inf, 0.01, 0.1]
    assert len(again) == 4 and "4 runs" in str(again)
    assert [setting for setting, _ in again.items()] == SETTINGS
    assert [answer["loss"] for _, answer in again.items()] == [0.1, 0.01, math.inf, math.inf]


def test_an_interrupted_run_goes_on_with_the_rest(tmp_path):
    first = Experiment(stop_at=("glorot", 0.1))
    with pytest.raises(KeyboardInterrupt):
        Results("x", "full", tmp_path).run(first, SETTINGS)
    second = Experiment()
    found = Results("x", "full", tmp_path).run(second, SETTINGS)
    assert first.calls == [("he", 0.1), ("he", 0.01)] and second.calls == [("glorot", 0.1), ("glorot", 0.01)]
    assert len(found) == 4


def test_quick_results_are_computed_anew(tmp_path):
    for _ in range(2):
        experiment = Experiment()
        Results("x", "quick", tmp_path).run(experiment, SETTINGS)
        assert len(experiment.calls) == 4


def test_fresh_starts_from_nothing(tmp_path, monkeypatch):
    Results("x", "full", tmp_path).run(Experiment(), SETTINGS)
    assert len(Results("x", "full", tmp_path, fresh=True)) == 0
    monkeypatch.setenv("HESSINIT_FRESH", "1")
    assert len(Results("x", "full", tmp_path)) == 0


@pytest.mark.parametrize("damage", [
    lambda text: text[:len(text) // 2],
    lambda text: text.replace("0.01", "0.02", 1),
    lambda text: "[]",
    lambda text: json.dumps({"records": []}),
])
def test_a_corrupt_file_is_named_kept_and_computed_again(tmp_path, damage):
    stored = Results("x", "full", tmp_path)
    stored.run(Experiment(), SETTINGS)
    stored.path.write_text(damage(stored.path.read_text()))
    with pytest.warns(UserWarning, match=r"x-full\.json is corrupt"):
        again = Results("x", "full", tmp_path)
    assert (tmp_path / "x-full.json.corrupt").exists()
    experiment = Experiment()
    again.run(experiment, SETTINGS)
    assert len(experiment.calls) == 4 and len(Results("x", "full", tmp_path)) == 4


def test_shipped_results_are_where_a_full_run_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SHIPPED", tmp_path / "shipped")
    Results("x", "full", tmp_path / "shipped").run(Experiment(), SETTINGS[:3])
    experiment, mine = Experiment(), Results("x", "full", tmp_path / "mine")
    mine.run(experiment, SETTINGS)
    assert experiment.calls == [("glorot", 0.01)] and len(Results("x", "full", tmp_path / "mine")) == 4
    assert len(Results("x", "full", tmp_path / "shipped")) == 3


def test_records_carry_what_they_ran_on(tmp_path):
    stored = Results("x", "full", tmp_path)
    stored.run(Experiment(), SETTINGS)
    record = json.loads(stored.path.read_text())["records"][0]
    assert record["setting"] == SETTINGS[0] and record["seconds"] >= 0
    environment = stored.environments[record["environment"]]
    assert {"date", "python", "torch", "hessinit_lite", "device", "threads"} == set(environment)


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="quick, full"):
        Results("x", "huge", tmp_path)
    monkeypatch.setenv("HESSINIT_SIZE", "huge")
    with pytest.raises(ValueError, match="HESSINIT_SIZE"):
        size_of_experiments()
    with pytest.raises(TypeError):
        Results("x", "full", tmp_path).run(Experiment(), [{"scheme": object(), "lr": 1}])
    with pytest.raises(KeyError, match="call run"):
        Results("x", "full", tmp_path).answers(SETTINGS)


def test_the_shipped_files_are_whole(tmp_path):
    """What comes with the module is what was written; a hand-edited number would show here."""
    for path in sorted(results.SHIPPED.glob("*.json")):
        name, size = path.stem.rsplit("-", 1)
        stored = Results(name, size, tmp_path, fresh=False)
        assert len(stored) > 0 and json.loads(path.read_text())["name"] == name
