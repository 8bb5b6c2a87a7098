"""A stranger's walk through the built book, a picture at each stop: python book/_tools/walk.py FOLDER [BUILT HTML]

From the landing page to the first chapter, a changed slider, the Colab button and an exercise's solution, then to
the laboratory, where a net does not train and another start makes it train, by mouse or finger as the visitor's
device has it. Build with GITHUB_REPOSITORY=owner/name: only then there is a Colab button. Pictures are to be looked
at; tests/test_site.py takes the same walk.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from site_checks import ROOT, open_chromium, patient, serve, settle, still

VISITORS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


# Has the laboratory answered what it was asked, after so many answers?
ANSWERED = """since => {
  const {answered, state} = document.querySelector(".hessinit-lab").dataset;
  return Number(answered) > since && state === "complete";
}"""


def walk(browser, address, folder, visitor):
    """Take the walk as one of VISITORS, from the book's address; returns (pictures, Colab's address).

    Every stop waits for what the stranger expects to see, and a playwright error says at which it did not come.
    """
    context = browser.new_context(**VISITORS[visitor])
    patient(context)
    page, pictures = context.new_page(), []

    def press(target, **where):
        (target.tap if "has_touch" in VISITORS[visitor] else target.click)(**where)

    def look(name):
        still(page)  # menus fade in
        pictures.append(Path(folder) / f"{visitor}-{len(pictures)}-{name}.png")
        page.screenshot(path=pictures[-1])

    def arrive():
        page.wait_for_load_state()
        settle(page)
        page.wait_for_selector("article h1")

    page.goto(address)
    page.wait_for_url("**/index.html")
    arrive()
    look("landing")

    first = page.locator("article td a[href$='01-why.html']")
    first.scroll_into_view_if_needed()
    look("contents")
    press(first)
    page.wait_for_url("**/01-why.html")
    arrive()
    look("chapter")

    figure = page.locator(".hessinit-explore").first
    slider, image = figure.locator("input[type=range]").first, figure.locator("img")
    slider.scroll_into_view_if_needed()
    before, box = image.get_attribute("src"), slider.bounding_box()
    look("figure")
    press(slider, position={"x": box["width"] - 2, "y": box["height"] / 2})
    page.wait_for_function("([i, before]) => i.src !== before && i.complete", arg=[image.element_handle(), before])
    look("slider-moved")

    page.evaluate("() => scrollTo(0, 0)")
    press(page.locator(".dropdown-launch-buttons > button"))
    colab = page.locator(".dropdown-launch-buttons a[href*='colab']")
    colab.wait_for(state="visible")
    look("colab")
    colab = colab.get_attribute("href")
    page.keyboard.press("Escape")

    solution = page.locator(".solution.dropdown").first
    solution.scroll_into_view_if_needed()
    look("exercise")
    press(solution.locator("> .admonition-title"))
    solution.locator("section").wait_for(state="visible")
    solution.evaluate("s => scrollTo(0, s.getBoundingClientRect().top + scrollY - 120)")
    look("solution")

    page.goto(address)
    page.wait_for_url("**/index.html")
    arrive()
    press(page.locator("article a[href$='laboratory.html']").first)
    page.wait_for_url("**/laboratory.html")
    arrive()
    lab = page.locator("article .hessinit-lab")

    def answered(since):
        page.wait_for_function(ANSWERED, arg=since)
        return int(lab.get_attribute("data-answered"))

    def train(name):
        button = lab.get_by_role("button", name="Train", exact=True)
        button.scroll_into_view_if_needed()
        press(button)
        page.wait_for_function("() => document.querySelector('.hessinit-lab').dataset.step >= 150")
        look(name)
        press(lab.get_by_role("button", name="Pause", exact=True))

    before = answered(0)
    look("laboratory")
    train("stands-still")
    press(lab.get_by_role("button", name="Back to the same weights"))
    lab.locator("[name=scheme]").select_option("he")
    answered(before)
    press(lab.get_by_role("button", name="1/λ = "))
    train("trains")
    context.close()
    return pictures, colab


if __name__ == "__main__":
    folder, site = Path(sys.argv[1]), Path(sys.argv[2] if sys.argv[2:] else ROOT / "_build" / "html")
    folder.mkdir(parents=True, exist_ok=True)
    with serve(site) as address, sync_playwright() as playwright, open_chromium(playwright) as browser:
        for visitor in VISITORS:
            print(*walk(browser, address, folder, visitor)[0], sep="\n")
