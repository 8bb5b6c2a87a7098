"""The experiments of chapter 16 (depth) and of the cookbook (rates that the report proposes): tiny runs."""

import math

import pytest
import torch

import hessinit_lite as hl
from hessinit_lite.lab.experiments import depth, practice


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Both in seconds, stored elsewhere."""
    monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
    monkeypatch.setattr(depth, "DEPTHS", {size: (1, 2) for size in ("quick", "full")})
    monkeypatch.setattr(depth, "POWERS", {(size, each): (-6, -4) for size in ("quick", "full") for each in depth.OPTIMIZERS})
    monkeypatch.setattr(depth, "STEPS", {"quick": 2, "full": 2})
    monkeypatch.setattr(depth, "CHOOSE", {"quick": range(1), "full": range(2)})
    monkeypatch.setattr(depth, "JUDGE", {"quick": (), "full": (5, 6)})
    monkeypatch.setattr(practice, "MARKS", {"quick": (1, 2), "full": (1, 2)})
    monkeypatch.setattr(practice, "SEEDS", {"quick": range(1), "full": range(1)})


@pytest.mark.parametrize("scaling", depth.SCALINGS)
def test_scalings_of_a_residual_net(scaling):
    """The branches' sum and their step: a factor in the forward pass divides both, one in the weights the first."""
    net, plain = depth.start(scaling, 4, seed=1), depth.start("none", 4, seed=1)
    x = torch.randn(6, 64)
    z = plain.stem(x)
    block, other = net.blocks[0], plain.blocks[0]
    share = {"none": 1, "w₂/√L": 0.5, "w₂ = 0": 0, "α = 1/√L": 0.5, "α = 1/L": 0.25}[scaling]
    torch.testing.assert_close(block(z) - z, share * (other(z) - z), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        before = block(z)
        block.w2.weight += 0.1
        moved = block(z) - before
        before = other(z)
        other.w2.weight += 0.1
        plainly = other(z) - before
    torch.testing.assert_close(moved, (share if "α" in scaling else 1) * plainly, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="known: none"):
        depth.start("1/L", 4, 0)


def test_the_power_of_depth():
    rates = [2.0**-k for k in range(8)]

    def losses(best):
        return torch.tensor([[abs(math.log2(rate) - math.log2(best)) + 1 for rate in rates]] * 2).double()

    swept = {("SGD", "none", L): losses(1 / L) for L in (4, 8, 16, 32)} | {("SGD", "α = 1/L", L): losses(1.0) for L in (4, 8)}
    found = depth.Found(swept, {}, {"SGD": rates}, [])
    assert depth.power_of_depth(found, "SGD", "none") == pytest.approx(-1)
    assert depth.power_of_depth(found, "SGD", "α = 1/L") == pytest.approx(0)
    assert depth.best_rate(torch.tensor([[math.inf, 2.0], [0.1, 2.0]]), [1.0, 0.5]) == 0.5  # a lost run counts


def test_depth_is_run_stored_and_judged(tiny):
    found = depth.run(size="full")
    assert list(found.swept) == list(found.judged) == [(*kind, L) for kind in depth.KINDS for L in (1, 2)]
    assert all(x.shape == (2, 2) and bool(x.isfinite().all()) for x in (*found.swept.values(), *found.judged.values()))
    again = depth.stored()
    assert all(torch.equal(again.swept[key], x) for key, x in found.swept.items())
    one = depth.experiment("SGD", "none", 2, [5], [2.0**-6], 2)["losses"]
    both = depth.experiment("SGD", "none", 2, [5, 6], [2.0**-6, 2.0**-4], 2)["losses"]
    assert one[0][0] == pytest.approx(both[0][0], rel=1e-4)  # a run does not know of those beside it
    quick = depth.run(size="quick")
    assert not quick.judged and len(quick.swept) == len(found.swept)


def test_nets_of_other_peoples_making(tiny):
    found = practice.run(size="full")
    assert set(found.answers) == set(practice.NETS) and all(len(x) == 1 for x in found.answers.values())
    for name, (answer,) in found.answers.items():
        told = practice.asked(name, 0)
        assert answer["rate"] == pytest.approx(told.adam.rate, rel=1e-4)
        assert answer["warmup"] == told.adam.warmup(told.adam.rate)
        assert [text for _, text in answer["findings"]] == [each.text for each in told.findings]
        assert set(answer["losses"]) == {"proposed", *practice.USUAL}
        assert all(len(x) == 2 and all(0 < each < 10 for each in x) for x in answer["losses"].values())
        assert told.adam.parts or name == "ResNet, batch norm"
    assert practice.stored().answers == found.answers


def test_a_start_is_that_of_its_seed():
    for name in practice.NETS:
        state = torch.get_rng_state()
        a, b, c = practice.start(name, 1), practice.start(name, 1), practice.start(name, 2)
        assert torch.equal(torch.get_rng_state(), state)
        pairs = list(zip(a.parameters(), b.parameters(), c.parameters()))
        assert all(torch.equal(p, q) for p, q, _ in pairs) and not all(torch.equal(p, r) for p, _, r in pairs)
    assert hl.weight_layers(practice.start("ResNet, batch norm", 0))["fc"].bias.any().item() is False
