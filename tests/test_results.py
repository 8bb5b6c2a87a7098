"""Stored results: continued, checked, never lost."""

import copy
import json
import math
import multiprocessing

import pytest

from hessinit_lite.lab import convert, results
from hessinit_lite.lab.records import KNOWN
from hessinit_lite.lab.results import Results, size_of_experiments

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
    assert {"date", "python", "torch", "numpy", "hessinit_lite", "commit", "device", "instructions",
            "threads"} == set(environment)
    assert record["data"] is None and environment["numpy"].count(".") == 2
    assert environment["commit"] == "unknown" or len(environment["commit"].rstrip("+")) == 12


def test_answers_of_other_data_never_mix(tmp_path):
    """Whoever has other files computes anew, and both answers stay."""
    mine = Results("x", "full", tmp_path, data_of=lambda setting: "recompressed sha256:1")
    mine.run(Experiment(), SETTINGS)
    other, experiment = Results("x", "full", tmp_path, data_of=lambda setting: "official sha256:2"), Experiment()
    assert SETTINGS[0] in mine and SETTINGS[0] not in other
    with pytest.raises(KeyError, match="official"):
        other.answers(SETTINGS[:1])
    other.run(experiment, SETTINGS[:1])
    assert experiment.calls == [("he", 0.1)]
    again = Results("x", "full", tmp_path)
    assert len(again) == 5 and again.data() == ["official sha256:2", "recompressed sha256:1"]
    assert SETTINGS[0] not in again  # nor are they found without a name


def old_file(path, name="12-mnist", **more):
    """A file as the module wrote it before answers named their data."""
    environment = {"date": "2026-11-25", "python": "3.11.7", "torch": "2.13.0", "hessinit_lite": "0.1.0",
                   "device": "CPU", "threads": 1}
    setting = {"data": "mnist", "seed": 0, **more}
    content = {"name": name, "size": "full", "environments": [environment],
               "records": [{"setting": setting, "answer": 1.5, "seconds": 2.0, "environment": 0}]}
    path.write_text(json.dumps({**content, "sha256": results._checksum(content)}))
    return path


def test_an_older_file_is_read_and_converted(tmp_path):
    path = old_file(tmp_path / "12-mnist-full.json")
    label = KNOWN["mnist"]
    read = Results("12-mnist", "full", tmp_path, data_of=lambda setting: label)
    assert read.data() == ["unknown"] and {"data": "mnist", "seed": 0} not in read
    assert convert.convert(path) == 1 and convert.convert(path) == 0
    read = Results("12-mnist", "full", tmp_path, data_of=lambda setting: label)
    assert read.answers([{"data": "mnist", "seed": 0}]) == [1.5] and read.environments[0]["commit"] == "unknown"


def test_a_fingerprint_in_an_older_setting_names_other_data(tmp_path):
    path = old_file(tmp_path / "12-mnist-full.json", fingerprint="abc")
    convert.convert(path)
    read = Results("12-mnist", "full", tmp_path)
    assert read.data() == ["mnist sha256:abc"] and read.items()[0][0] == {"data": "mnist", "seed": 0}


def test_an_older_file_of_unknown_data_stays_as_it_was(tmp_path):
    path = old_file(tmp_path / "12-mnist-full.json", data="imagenet")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not known"):
        convert.convert(path)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        convert.convert(tmp_path / "nothing-full.json")


def test_every_shipped_answer_names_its_data():
    """By name and hash, but for a cost, which has random inputs, and for answers once more."""
    for path in sorted(results.SHIPPED.glob("*.json")):
        _, records = results.read(path)
        assert all("sha256:" in (record["data"] or "") or path.stem.startswith(("paper-cost", "again")) for record in records), path


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


def write_one_by_one(folder, who, count):
    """One of several processes: stores an answer after every setting."""
    for n in range(count):
        Results("x", "full", folder).run(lambda who, n: n, [{"who": who, "n": n}], progress=False)


def keep_writing(folder, who, count):
    """The same with one object, which does not read what the others store."""
    mine = Results("x", "full", folder)
    for n in range(count):
        mine.run(lambda who, n: n, [{"who": who, "n": n}], progress=False)


@pytest.mark.parametrize("write", [write_one_by_one, keep_writing])
@pytest.mark.filterwarnings("error")
def test_processes_that_write_one_file_keep_all_answers(write, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hessinit_lite", "pytest"])
    processes = [context.Process(target=write, args=(tmp_path, who, 40)) for who in "abc"]
    for each in processes:
        each.start()
    for each in processes:
        each.join(timeout=300)
        each.kill()
    assert [each.exitcode for each in processes] == [0, 0, 0]
    settings = [{"who": who, "n": n} for who in "abc" for n in range(40)]
    assert Results("x", "full", tmp_path).answers(settings) == 3 * list(range(40))
    assert [path.name for path in tmp_path.iterdir()] == ["x-full.json"]  # nothing is left behind


def test_objects_that_overlap_keep_the_newest_answers(tmp_path):
    double, triple = (lambda n: 2 * n), (lambda n: 3 * n)
    settings = [{"n": n} for n in range(3)]
    old = Results("x", "full", tmp_path)
    old.run(double, settings[:2])
    fresh = Results("x", "full", tmp_path, fresh=True)
    reader = Results("x", "full", tmp_path)
    fresh.run(triple, settings[:1])  # what was there before a fresh start goes ...
    assert Results("x", "full", tmp_path).items() == [({"n": 0}, 0)]
    reader.run(double, settings[2:])  # ... and what another has merely read yields to what is there
    fresh.run(triple, settings[1:2])
    again = Results("x", "full", tmp_path)
    assert again.answers(settings) == [0, 3, 4] and len(fresh) == 2
    assert {again.environments[record["environment"]]["device"] for record in again.records}


def test_the_environments_of_several_writers_are_told_apart(tmp_path, monkeypatch):
    first, second = (Results("x", "full", tmp_path) for _ in range(2))
    monkeypatch.setattr(results, "_version", lambda: "1")
    first.run(lambda n: n, [{"n": 1}])
    monkeypatch.setattr(results, "_version", lambda: "2")
    second.run(lambda n: n, [{"n": 2}])
    stored = Results("x", "full", tmp_path)
    assert {record["setting"]["n"]: stored.environments[record["environment"]]["hessinit_lite"]
            for record in stored.records} == {1: "1", 2: "2"}


def test_a_lock_that_a_dead_process_left_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STALE", 0.2)
    (tmp_path / "x-full.json.lock").touch()
    Results("x", "full", tmp_path).run(lambda n: n, [{"n": 1}])
    assert [path.name for path in tmp_path.iterdir()] == ["x-full.json"]


def test_a_save_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    stored = Results("x", "full", tmp_path)
    stored.run(lambda n: n, [{"n": 1}])
    before = stored.path.read_bytes()

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(results.Path, "write_text", full_disk)
        stored.run(lambda n: n, [{"n": 2}])
    assert stored.path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    stored.save()
    assert Results("x", "full", tmp_path).answers([{"n": 1}, {"n": 2}]) == [1, 2]


def test_a_second_corrupt_file_does_not_replace_the_first(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "x-full.json").write_text(text)
        with pytest.warns(UserWarning, match="corrupt"):
            Results("x", "full", tmp_path)
    assert sorted(path.read_text() for path in tmp_path.glob("*.corrupt*")) == ["first", "second"]


def test_a_file_that_turns_corrupt_during_a_run_is_kept_aside(tmp_path):
    stored = Results("x", "full", tmp_path)
    stored.run(lambda n: n, [{"n": 1}])
    stored.path.write_text("damaged")
    with pytest.warns(UserWarning, match="corrupt"):
        stored.run(lambda n: n, [{"n": 2}])
    assert (tmp_path / "x-full.json.corrupt").read_text() == "damaged"
    assert len(Results("x", "full", tmp_path)) == 2


def test_settings_reach_the_function_as_they_were_given(tmp_path):
    settings = [{"lr": math.inf, "shape": (1, 2), "names": {1: "a"}},
                {"lr": -math.inf, "shape": [1]}]
    seen = []

    def experiment(**setting):
        seen.append(copy.deepcopy(setting))
        if isinstance(setting["shape"], list):
            setting["shape"].append(2)  # its own business
        return len(seen)

    stored = Results("x", "full", tmp_path)
    asked = copy.deepcopy(settings)
    assert stored.run(experiment, asked) == [1, 2] and seen == settings
    assert type(seen[0]["shape"]) is tuple
    again = Results("x", "full", tmp_path)
    assert again.answers(settings) == again.run(experiment, settings) == [1, 2] and len(seen) == 2
    assert again.items()[1] == ({"lr": -math.inf, "shape": [1]}, 2)


def nested(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


def test_what_json_cannot_hold_is_refused_and_the_rest_is_kept(tmp_path):
    own = []
    own.append(own)
    stored, clear = Results("x", "full", tmp_path), "nested deeper than 100 levels"
    for deep in (nested(101), nested(100_000), own):
        with pytest.raises(ValueError, match=clear):
            stored.run(lambda n: n, [{"n": 1}, {"n": deep}])
        with pytest.raises(ValueError, match=clear):
            stored.answers([{"n": deep}])
        with pytest.raises(ValueError, match=clear):
            stored.run(lambda n, deep=deep: deep if n else 0, [{"n": 0}, {"n": 1}])
    with pytest.raises(ValueError, match="keys 1 and '1' are the same in JSON"):
        stored.run(lambda n: {1: 2, "1": 3}, [{"n": 2}])
    stored.run(lambda n: nested(90), [{"n": 3}])
    stored.run(lambda n: 0, [{"n": nested(99)}])  # with the setting itself 100
    deepest = math.inf
    for _ in range(99):
        deepest = [deepest]
    settings = [{"n": deepest}]
    assert stored.run(lambda n: n, settings) == stored.answers(settings) == [deepest]
    assert stored.run(lambda n: {"float": "1.5"}, [{"n": 4}]) == [{"float": "1.5"}]
    assert Results("x", "full", tmp_path).answers([{"n": 0}, {"n": 3}]) == [0, nested(90)]
