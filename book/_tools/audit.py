"""Measure every page of the built book in headless Chromium: python book/_tools/audit.py [FOLDER OF THE BUILT HTML]

Writes book/site-audit/table.md, which the page book/site-audit.md shows. tests/test_site.py holds every page to
the same limits.
"""

import datetime
import os
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from playwright.sync_api import sync_playwright
from site_checks import (
    ROOT,
    axe,
    broken,
    links,
    measure,
    open_chromium,
    pages,
    serve,
    settle,
)

TABLE = ROOT / "book" / "site-audit" / "table.md"
TRIES = 3  # other work on the machine only adds time


def audit(site):
    """A row per page: dicts of `measure`'s numbers and of axe-core's findings, light and dark."""
    rows = {}
    with serve(site) as address, sync_playwright() as playwright, open_chromium(playwright) as browser:
        for name in [*pages(), "search"]:
            url = f"{address}{name}.html"
            tries = [measure(browser, url) for _ in range(TRIES)]
            rows[name] = tries[0]
            rows[name]["interactive"] = min(each["interactive"] for each in tries)
            rows[name]["shift"] = max(each["shift"] for each in tries)
            for scheme in ("light", "dark"):
                page = browser.new_page(color_scheme=scheme)
                page.goto(url)
                settle(page)
                rows[name][scheme] = axe(page)
                page.close()
            print(name, rows[name], flush=True)
        return rows, browser.version


def table(site, rows, browser):
    found = list(links(site))
    count = Counter(page.with_suffix("").as_posix() for page, _ in found)
    wrong = Counter(page.with_suffix("").as_posix() for page, address in found if broken(site, page, address))
    (mathjax,) = {row["mathjax"] for row in rows.values() if row["mathjax"]}
    load = os.getloadavg()[0]
    lines = [
        "% Made by book/_tools/audit.py: do not edit.",
        "",
        f"Measured on {datetime.date.today():%d %B %Y} with headless Chromium {browser}, sphinx {version('sphinx')}, "
        f"sphinx-book-theme {version('sphinx-book-theme')} and axe-playwright-python {version('axe-playwright-python')}; "
        f"{os.cpu_count()} CPU cores with a load of {load:.1f}. MathJax, one file of {mathjax / 1e6:.1f} MB that all pages "
        "share, comes on top of each weight.",
        "",
        "| Page | Weight, kB | Interactive after, s | Layout shift | axe: light | axe: dark | Links | Broken |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name.removeprefix('book/')} | {row['weight'] / 1000:.0f} | {row['interactive']:.2f} | {row['shift']:.3f} "
            f"| {len(row['light'])} | {len(row['dark'])} | {count[name]} | {wrong[name]} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else ROOT / "_build" / "html").resolve()
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table(folder, *audit(folder)))
    print(TABLE.read_text())
