"""How exact and how fast the live engine is: python benchmarks/live.py

Two tables. The largest relative difference from hessinit_lite in float64, over the eight activations,
for each quantity, depth and precision. Then milliseconds of one core in Node, the least of several runs,
for a ReLU net of width 64 on 128 samples: a picture's signal and gradient, all norms, the largest
eigenvalue, and steps a second at batches of 32. `--chromium` computes in Chromium instead.

`--page` measures what a reader waits for, in Chromium, on the laboratory itself: from moving a knob to the
picture of signal and gradient, and to all norms. Its table is written to book/how-fast/live.md, with the
load that the machine had.
"""

import argparse
import datetime
import os
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "book" / "_tools")]
import site_checks  # noqa: E402
from test_live_engine import ENGINE, SINGLE_PRECISION, ask, drawn, exported, true, worst  # noqa: E402

import hessinit_lite as hl  # noqa: E402

DEPTHS = 2, 10, 30, 60
TIMED = """
    const {uniform, normal} = E.random(5), sizes = [64, ...Array(data.depth - 1).fill(64), 10];
    const inputs = Float64Array.from({length: 128 * 64}, normal);
    const labels = Array.from({length: 128}, () => Math.floor(10 * uniform()));
    const net = new E.Network({sizes, activation: "relu", precision: "float32"}).draw({scheme: "he"});
    const least = (runs, act) => {
      let found = Infinity;
      for (let k = 0; k < runs; k++) {
        const from = performance.now();
        act();
        found = Math.min(found, performance.now() - from);
      }
      return found;
    };
    const look = least(40, () => { net.forward(inputs, labels); net.backward(); });
    const norms = least(20, () => { for (const each of net.norms({tolerance: 3e-3})); });
    const top = least(6, () => net.topEigenvalue({tolerance: 1e-2}));
    const rate = optimizer => {
      const trainer = net.trainer({inputs, labels, rate: 1e-4, optimizer});
      return 1000 / least(60, trainer.step);
    };
    return [look, norms, top, rate("sgd"), rate("adam")];
"""


def in_chromium(page):
    """As `ask`, in a page."""

    def asked(body, **data):
        return page.evaluate(f"data => {{ const E = HessinitEngine; {body} }}", data)

    return asked


def agreement(asked):
    for precision in ("float64", "float32"):
        for depth in DEPTHS:
            errors = {}
            for activation in hl.ACTIVATIONS:
                model, batch = drawn(activation, depth, width=30)
                data, wanted = exported(model, batch), true(model, batch)
                if precision == "float64":
                    found = asked("return E.measure(data)", **data)
                    found["loss"] = [found["loss"]]
                else:
                    body = "const simd = E.useKernels();" + SINGLE_PRECISION
                    found = asked(body, **data, precision=precision)
                for name, values in wanted.items():
                    errors[name] = max(errors.get(name, 0), worst(found[name], values))
            print(precision, f"depth {depth:2}", *(f"{name} {error:.0e}" for name, error in errors.items()), sep="  ")


def times(asked):
    for depth in (10, 30, 60):
        look, norms, top, sgd, adam = asked(TIMED, depth=depth)
        print(f"depth {depth}: signal and gradient {look:.1f} ms, all norms {norms:.1f} ms, λ {top:.1f} ms, "
              f"{sgd:.0f} steps/s with SGD, {adam:.0f} with Adam")


#: Moves the knob σ `moves` times and returns milliseconds to the first picture and to all norms, for each.
KNOB_TO_PICTURE = """async moves => {
  const {bench} = document.querySelector('.hessinit-lab'), knob = document.querySelector('[name=factor]');
  const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))));
  const hear = bench.hear.bind(bench);
  let heard = () => {};
  bench.hear = answer => { hear(answer); heard(answer); };
  const found = [];
  for (let move = 0; move < moves; move++) {
    const answered = {};
    const waiting = Promise.all(['signal', 'lambda'].map(kind => new Promise(done => { answered[kind] = done; })));
    let norms;
    heard = ({kind}) => {
      if (kind === 'norms') norms = drawn();
      if (kind in answered) answered[kind](kind === 'signal' ? drawn() : norms);
    };
    const from = performance.now();
    knob.value = 48 + (move % 2 ? 4 : -4);
    knob.dispatchEvent(new Event('input', {bubbles: true}));
    found.push((await waiting).map(time => time - from));
  }
  return found;
}"""
PLACE = ROOT / "book" / "how-fast" / "live.md"


def on_the_page(browser, depths=(10, 30, 60), moves=15):
    """[(depth, kB of the output, ms to the first picture after loading, to a picture, to all norms)]; medians."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for depth in depths:
            html = hl.laboratory(depth=depth, scheme="he").html()
            path = Path(folder) / f"{depth}.html"
            path.write_text(f"<!doctype html><meta charset=utf-8><title>{depth}</title>{html}", encoding="utf-8")
            page = site_checks.patient(browser.new_page(viewport={"width": 1280, "height": 900}))
            page.goto(path.as_uri())
            page.wait_for_function("() => document.querySelector('.hessinit-lab').dataset.state === 'complete'")
            first = page.evaluate("() => performance.now()")
            found = page.evaluate(KNOB_TO_PICTURE, moves)
            rows.append((depth, len(html) / 1000, first, *map(statistics.median, zip(*found))))
            page.close()
    return rows


def write_table(rows, version, load):
    lines = [
        "% Made by benchmarks/live.py --page: do not edit.",
        "",
        f"Measured on {datetime.date.today():%d %B %Y} in headless Chromium {version}, on a machine with {os.cpu_count()} CPU cores "
        f"and a load of {load:.1f}: He's ReLU nets of width 64, 128 samples, the knob *σ of weights* moved 15 times, medians.",
        "",
        "| Depth | The output, kB | Complete after loading, ms | Knob to signal and gradient, ms | Knob to all norms, ms |",
        "|--:|--:|--:|--:|--:|",
        *(f"| {depth} | {size:.0f} | {first:.0f} | {signal:.0f} | {norms:.0f} |" for depth, size, first, signal, norms in rows),
        "",
    ]
    PLACE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", action="store_true")
    parser.add_argument("--page", action="store_true")
    chosen = parser.parse_args()
    if chosen.page:
        load = os.getloadavg()[0]
        with sync_playwright() as started, site_checks.open_chromium(started) as browser:
            write_table(on_the_page(browser), browser.version, load)
        print(PLACE.read_text(encoding="utf-8"))
    elif chosen.chromium:
        with sync_playwright() as started, site_checks.open_chromium(started) as browser:
            page = browser.new_page()
            page.add_script_tag(path=ENGINE)
            asked = in_chromium(page)
            agreement(asked), times(asked)
    else:
        agreement(ask), times(ask)
