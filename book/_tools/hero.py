"""Take the README's picture, of the laboratory in the built book: python book/_tools/hero.py

torch's default in a ReLU net of 30 layers, with He's scheme pinned beside it, on a light and on a dark page.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from site_checks import ROOT, open_chromium, patient, serve, settle, still
from walk import ANSWERED

ASSETS = ROOT / "book" / "_assets"
NAMES = {"light": "hero.png", "dark": "hero-dark.png"}
SCALE = 1.5  # pixels of the picture to one of the page


def picture(browser, address, theme):
    """The knobs, what they say and the first row of curves, an image."""
    window = {"width": 1440, "height": 1200}
    context = browser.new_context(color_scheme=theme, viewport=window, device_scale_factor=SCALE)
    patient(context)
    page = context.new_page()
    page.goto(f"{address}book/laboratory.html")
    settle(page)
    lab = page.locator("article .hessinit-lab")

    def choose(scheme):
        before = int(lab.get_attribute("data-answered"))
        lab.locator("[name=scheme]").select_option(scheme)
        page.wait_for_function(ANSWERED, arg=before)

    page.wait_for_function(ANSWERED, arg=0)
    choose("he")
    lab.get_by_role("button", name="Pin", exact=True).click()
    choose("torch")
    page.mouse.move(0, 0)  # no layer is pointed at
    still(page)
    box, bar = lab.bounding_box(), lab.locator(".lab-bar").bounding_box()
    clip = {"x": box["x"] - 16, "y": box["y"] - 12, "width": box["width"] + 32}
    clip["height"] = bar["y"] + bar["height"] + 24 - box["y"]
    taken = page.screenshot(full_page=True, clip=clip)
    context.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


if __name__ == "__main__":
    site = Path(sys.argv[1] if sys.argv[1:] else ROOT / "_build" / "html")
    with serve(site) as address, sync_playwright() as playwright, open_chromium(playwright) as browser:
        for theme, name in NAMES.items():
            few = picture(browser, address, theme).quantize(64, dither=Image.Dither.NONE)
            few.save(ASSETS / name, optimize=True)
