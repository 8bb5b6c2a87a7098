"""Chapter 8's stored eigenvalues: of the nets that the chapter measures."""

import torch
import torch.nn.functional as F

import hessinit_lite as hl
from hessinit_lite.lab.experiments import eigenvalues


def test_the_stored_eigenvalues_are_complete_and_of_the_chapters_nets():
    found = eigenvalues.stored()
    assert [setting for setting, _ in found] == eigenvalues.settings("full")
    for setting, values in found[:2]:
        model, batch = hl.digits_net("tanh", width=8, seed=setting["seed"])
        operator = hl.hessian(model, F.cross_entropy, batch)
        both = torch.cat([hl.top_eigenvalues(operator, 2, 1e-9, which=which)[0] for which in ("LA", "SA")])
        assert torch.allclose(both.sort().values, torch.tensor(values).double()[[0, 1, -2, -1]], atol=2e-6)
        trace = sum(operator @ unit @ unit for unit in torch.eye(operator.shape[0]).double())
        assert abs(sum(values) - float(trace)) < 1e-3


def test_a_run_is_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
    assert [len(values) for _, values in eigenvalues.run("quick")] == [64 * 2 + 2 + 2 * 2 + 2 + 2 * 10 + 10] * 5
    assert len(hl.Results(eigenvalues.NAME, "quick", fresh=False)) == 5
