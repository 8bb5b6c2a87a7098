"""The chapters' small live figures in a browser, their numbers against hessinit_lite."""

import math

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from test_laboratory import DARK, LIGHT, PAGE, Lab, site_checks

import hessinit_lite as hl
from hessinit_lite.lab.experiments import eigenvalues, sweep

pytestmark = pytest.mark.skipif(not site_checks.chromium(), reason="no `chromium` on the path")

SETTINGS = {
    "signal": dict(depth=12, scheme="he"),
    "layers": dict(depth=5, width=24, scheme="he", rate=0.05),
    "rate": dict(depth=3, width=16, activation="tanh", scheme="forward", rate=0.15),
    "plane": dict(activation="tanh"),
    "map": dict(activation="tanh"),
    "singular": dict(depth=10, width=16, activation="linear", scheme="orthogonal"),
    "sweep": {},
    "lanczos": {},
    "balance": dict(depth=6, width=24, scheme="he"),
}
KNOB = {"signal": "factor", "layers": "layer-2", "rate": "rate", "plane": "w", "map": "gain", "singular": "factor", "sweep": "target",
        "lanczos": "products", "balance": "factor"}


@pytest.fixture(scope="module")
def visit(browser, tmp_path_factory):
    """Opens a view as a file: visit(name, ink=LIGHT, **options of the browser's context)."""
    folder = tmp_path_factory.mktemp("views")

    def open_view(name, ink=LIGHT, **options):
        path = folder / f"{name}.html"
        path.write_text(PAGE.format(head="", lab=hl.laboratory(view=name, **SETTINGS[name]).html(), **ink))
        lab = Lab(browser, path.as_uri(), **options)
        lab.wait("Number(d.answered) > 0")
        return lab

    return open_view


def seen(lab):
    """The numbers behind the picture."""
    return lab.page.evaluate("() => JSON.parse(JSON.stringify(document.querySelector('.hessinit-lab').seen))")


def until(lab, condition):
    """Wait for a condition on the numbers behind the picture, such as "s.eta > 1"."""
    lab.page.wait_for_function("c => (s => eval(c))(document.querySelector('.hessinit-lab').seen)", arg=condition)


def closed(lab):
    assert lab.errors == [] and lab.outside == []
    lab.page.context.close()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_knob_moves_the_picture_by_keyboard(visit, name):
    lab = visit(name)
    before = lab.page.inner_html(".lab-panels"), lab.page.inner_text(".lab-says")
    lab.knob(KNOB[name]).focus()
    for _ in range(10):
        lab.page.keyboard.press("ArrowRight")
    lab.page.wait_for_function(
        "b => document.querySelector('.lab-panels').innerHTML !== b[0] && document.querySelector('.lab-says').innerText !== b[1]",
        arg=list(before),
    )
    assert all(lab.page.eval_on_selector_all(".lab-panel > svg", "all => all.map(svg => svg.getAttribute('aria-label'))"))
    closed(lab)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("ink", [LIGHT, DARK], ids=["light", "dark"])
def test_it_fits_a_phone_and_axe_finds_nothing(visit, name, ink):
    lab = visit(name, ink, viewport={"width": 390, "height": 800}, reduced_motion="reduce")
    assert lab.page.evaluate("document.documentElement.scrollWidth") <= 390
    found = Axe().run(lab.page, ".hessinit-lab").response["violations"]
    assert [(each["id"], [node["html"][:80] for node in each["nodes"]]) for each in found] == []
    closed(lab)


def test_dots_are_dots_beside_matplotlibs_figures(visit):
    """Their style sheets say butt for every element of the page, and a line of no length would then not be seen."""
    lab = visit("balance")
    lab.page.add_style_tag(content="* { stroke-linejoin: round; stroke-linecap: butt }")
    caps = lab.page.eval_on_selector_all(".lab-panel path[d*='h0']", "all => all.map(path => getComputedStyle(path).strokeLinecap)")
    assert caps and set(caps) == {"round"}
    closed(lab)


def test_draw_again_draws_another_net(visit):
    lab = visit("signal")
    before = seen(lab)
    lab.button("Draw again").click()
    until(lab, f"s.signal[0] !== {before['signal'][0]!r}")
    assert seen(lab)["seed"] != before["seed"]
    closed(lab)


def test_solving_brings_every_norm_to_1(visit):
    lab = visit("layers", reduced_motion="reduce")
    first = seen(lab)
    assert max(abs(norm / law - 1) for norm, law in zip(first["norms"], first["law"])) < 1e-6
    lab.button("Solve: every norm at 1").click()
    until(lab, "s.norms.every(norm => Math.abs(norm - 1) < 0.03)")
    found = seen(lab)
    assert found["budget"] == pytest.approx(found["eta"] * sum(found["norms"]))
    lab.button("All s at 1").click()
    until(lab, "s.scales.every(scale => scale === 1)")
    assert seen(lab)["norms"] == pytest.approx(first["norms"], rel=1e-3)
    closed(lab)


def test_a_layers_own_knob_leaves_its_norm_to_the_others(visit):
    """The law: its own norm stays; another's goes with s². What is left is what H_z does, the same for all."""
    lab = visit("layers")
    first = seen(lab)
    lab.knob("layer-2").focus()
    lab.page.keyboard.press("ArrowRight")
    until(lab, "s.scales[1] !== 1")
    found = seen(lab)
    factors = [after / before for after, before in zip(found["law"], first["law"])]
    scale = found["scales"][1] ** 2
    assert factors == pytest.approx([scale, 1, scale, scale, scale])
    closed(lab)


def test_training_goes_on_below_the_limit_stops_above_and_comes_back(visit):
    lab = visit("rate")
    lab.button("η = 1/λ").click()
    until(lab, "Math.abs(s.eta * s.lambdas[0][1] - 1) < 0.01")
    lab.button("Train").click()
    until(lab, "s.losses.length > 30")
    losses = seen(lab)["losses"]
    assert losses[30] < losses[0]
    lab.button("Pause").click()
    lab.button("Back to the same weights").click()
    until(lab, "s.losses.length === 0")
    lab.knob("rate").focus()
    lab.page.keyboard.press("End")
    until(lab, "s.eta > 9")
    lab.button("Train").click()  # far above the limit: the loss does not fall as it did
    until(lab, "s.losses.length > 30 || s.over")
    bad = seen(lab)["losses"]
    assert max(bad) > bad[0] == pytest.approx(losses[0])
    closed(lab)


def test_the_plane_says_what_the_module_says(visit):
    lab = visit("plane")
    found = seen(lab)
    point = hl.fixed_point("tanh", found["w"] ** 2, found["b"] ** 2)
    assert found["settled"]
    assert found["variance"] == pytest.approx(point.variance, rel=1e-6)
    assert found["chi"] == pytest.approx(point.chi, rel=1e-6)
    assert found["correlation"] == pytest.approx(point.correlation, abs=1e-5)
    assert found["depth"] == pytest.approx(point.depth_scale, rel=1e-3)
    box = lab.page.locator(".lab-panel svg").first.bounding_box()
    lab.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    lab.page.mouse.down()
    lab.page.mouse.up()
    until(lab, "s.w > 2.3")
    assert seen(lab)["chi"] > found["chi"]
    closed(lab)


def test_the_map_follows_the_modules_profile(visit):
    lab = visit("map")
    found = seen(lab)
    profile = hl.variance_profile("tanh", 30, found["g"] ** 2, input_variance=found["start"] / found["g"] ** 2)
    assert found["values"] == pytest.approx(profile, rel=1e-9)
    closed(lab)


def test_orthogonal_linear_nets_keep_every_singular_value(visit):
    lab = visit("singular")
    assert torch.allclose(torch.tensor(seen(lab)["y"]), torch.ones(1), atol=1e-5)
    lab.knob("scheme").select_option("lecun")
    until(lab, "Math.max(...s.y) > 1.01")
    assert math.log10(max(seen(lab)["y"]) / min(seen(lab)["y"])) > 1  # ten random layers: far from isometry
    closed(lab)


def test_the_circle_is_carried_as_theory_says(visit):
    """In the ordered phase it shrinks to a point; in the chaotic one its points stay apart. Of one net of width 128."""
    lab = visit("plane")
    for key, check in (("Home", lambda c: c > 0.98), ("End", lambda c: c < 0.35)):
        lab.knob("w").press(key)
        lab.knob("layer").press("End")
        until(lab, f"s.layers === 15 && s.w === {0.5 if key == 'Home' else 3}")
        found = seen(lab)
        assert check(found["circle"]["correlation"]) and check(found["expected"])
    point = hl.fixed_point("tanh", found["w"] ** 2, found["b"] ** 2)
    correlation = found["b"] ** 2 / point.variance
    for _ in range(14):
        correlation = hl.correlation_map("tanh", correlation, point.variance, found["w"] ** 2, found["b"] ** 2)
    assert found["expected"] == pytest.approx(correlation, abs=1e-6)
    lab.button("Draw again").click()
    until(lab, f"s.seed !== {found['seed']}")
    again = seen(lab)
    assert again["circle"]["x"] != found["circle"]["x"] and again["expected"] == found["expected"]
    closed(lab)


def test_lanczos_is_lanczos_and_its_bounds_hold(visit):
    lab, spectra = visit("lanczos"), eigenvalues.figure()
    lab.knob("products").press("End")
    until(lab, "s.steps === 24")
    for turn in range(4):
        found = seen(lab)
        t = torch.diag(torch.tensor(found["diagonal"], dtype=torch.float64))
        beside = torch.tensor(found["beside"], dtype=torch.float64)
        ritz, vectors = torch.linalg.eigh(t + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1))
        ours = torch.tensor([found["ritz"], found["bounds"]], dtype=torch.float64)
        ours = ours[:, ours[0].argsort()]
        assert torch.allclose(ours[0], ritz, atol=1e-12)
        assert torch.allclose(ours[1], beside[-1] * vectors[-1].abs(), atol=1e-12)
        true = torch.tensor(spectra[found["net"]], dtype=torch.float64)
        distance = (ours[0][:, None] - true).abs().min(1).values
        assert (distance <= ours[1] + 1e-12).all() and ritz[-1] <= true[-1] + 1e-12
        assert found["error"] == pytest.approx(float(distance[ours[0].abs().argmax()]), abs=1e-13)
        if turn % 2:
            lab.knob("net").select_option("1")
            until(lab, "s.net === 1")
        else:
            lab.button("Draw again").click()
            until(lab, f"s.seed !== {found['seed']}")
    assert lab.button("One product more").is_disabled()
    lab.knob("products").press("Home")
    lab.button("One product more").click()
    until(lab, "s.steps === 2")
    closed(lab)


def test_a_factor_moved_between_layers_changes_their_norms_alone(visit):
    lab = visit("balance")
    lab.knob("factor").press("End")
    until(lab, "s.s > 9")
    found, k = seen(lab), 2  # layers 3 and 4
    expected = [100.0 if layer == k else 0.01 if layer == k + 1 else 1.0 for layer in range(6)]
    assert [a / b for a, b in zip(found["norms"], found["first"]["norms"])] == pytest.approx(expected, rel=2e-3)
    assert found["forms"] == pytest.approx([found["first"]["forms"][0]] * 6, rel=1e-3)
    assert found["loss"] == pytest.approx(found["first"]["loss"], rel=1e-4)
    lab.knob("layer").press("Home")
    until(lab, "s.from === 1")
    assert seen(lab)["norms"][0] / found["first"]["norms"][0] == pytest.approx(100, rel=2e-3)
    lab.button("s at 1").click()
    until(lab, "s.s === 1")
    drawn = seen(lab)["norms"][0]
    lab.button("Draw again").click()
    until(lab, f"s.norms[0] !== {drawn!r}")
    closed(lab)


def test_the_map_shows_the_stored_trainings(visit):
    lab, drawn = visit("sweep"), sweep.figure()
    i, j = drawn["targets"].index(1), drawn["rates"].index(0.1)
    found = seen(lab)
    assert found["runs"] == drawn["losses"][i][j] and found["product"] == pytest.approx(0.1 * drawn["curvature"][i])
    box = lab.page.locator(".lab-panel svg").first.bounding_box()
    lab.page.mouse.move(box["x"] + box["width"] * 0.96, box["y"] + 15)  # hover: the largest target and rate
    until(lab, "s.target === 100 && s.rate === 10")
    assert seen(lab)["runs"] == drawn["losses"][-1][-1] and seen(lab)["lost"] == 5
    assert "overflow" in lab.page.inner_text(".lab-says")
    lab.knob("rate").press("Home")
    until(lab, "s.rate === 0.001")
    lab.page.locator("summary").click()
    cells = lab.page.locator("tbody tr").evaluate_all("all => all.map(row => [...row.cells].map(cell => cell.textContent))")
    assert len(cells) == 10 and cells[-2][0] == "η = 0.001" and float(cells[-2][-1]) == pytest.approx(seen(lab)["median"], rel=0.06)
    closed(lab)


@pytest.mark.parametrize("name", SETTINGS)
def test_where_scripts_do_not_run_there_is_a_picture_and_a_sentence(name):
    shown = hl.laboratory(view=name, **SETTINGS[name])
    html = shown.html()
    assert shown._repr_png_().startswith(b"\x89PNG") and "<img" in html and "Where scripts run, this is live" in html
    alt = html.split('alt="')[1].split('"')[0]
    assert len(alt) > 30
