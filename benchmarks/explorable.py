"""What an explorable figure weighs and how fast it answers: python benchmarks/explorable.py

Draws a figure of the book in 48 frames (8 depths, 6 activations), puts it on an empty page, and moves
its controls in headless Chromium. An answer is timed from the input event until the new frame has been decoded and painted.
"""

import gzip
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

import hessinit_lite as hl

DEPTHS = [2, 3, 5, 8, 12, 20, 30, 50]
ACTIVATIONS = ["linear", "tanh", "relu", "selu", "gelu", "silu"]
ANSWER = """async control => {
    const image = control.closest(".hessinit-explore").querySelector("img");
    const times = [];
    for (let k = 0; k < 40; k++) {
        const before = image.src, start = performance.now();
        if (control.tagName === "SELECT") control.selectedIndex = k % control.options.length;
        else control.value = k % (Number(control.max) + 1);
        control.dispatchEvent(new Event("input", {bubbles: true}));
        if (image.src === before) continue;
        await image.decode();
        await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));  // painted
        times.push(performance.now() - start);
    }
    return times;
}"""


def main():
    start = time.perf_counter()
    figure = hl.explore(hl.figures.chain_rule_error, depth=DEPTHS, activation=ACTIVATIONS)
    drawn = time.perf_counter() - start
    page = "<!doctype html><meta charset=utf-8>" + figure._repr_mimebundle_()["text/html"]
    print(f"{len(figure.frames)} frames, drawn in {drawn:.0f} s: {len(page) / 1000:.0f} kB on the page, "
          f"{len(gzip.compress(page.encode())) / 1000:.0f} kB as a server sends it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(page)
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = chromium.new_page()
        tab.goto(path.as_uri())
        tab.locator("[data-controls]").wait_for(state="visible")
        for control in ("input[type=range]", "select"):
            times = tab.locator(control).first.evaluate(ANSWER)
            print(f"{control}: {len(times)} moves, median {statistics.median(times):.1f} ms, slowest {max(times):.1f} ms")
        chromium.close()


if __name__ == "__main__":
    main()
