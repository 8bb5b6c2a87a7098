"""Print the built book to one PDF: python book/_tools/pdf.py [FOLDER OF THE BUILT HTML]

Headless Chromium prints page by page with the site's own print style; pypdf joins the pages, numbers
them, and turns links between chapters into links inside the document. The index page shows its link to
the PDF once there is one.
"""

import html
import io
import sys
import urllib.parse
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject
from site_checks import (
    ROOT,
    chromium,
    open_chromium,
    pages,
    patient,
    settle,
    still,
)

NAME = "from-variance-to-the-hessian.pdf"
_PREPARE = """async () => {
  for (const d of document.querySelectorAll("details:not(.above-input)")) d.open = true;
  for (const d of document.querySelectorAll(".toggle-hidden")) d.classList.remove("toggle-hidden");
  for (const i of document.images) { i.loading = "eager"; await i.decode().catch(() => {}); }
}"""


def print_page(browser, url):
    """One page of the site as a PDF in memory; its outline has the page's headings."""
    page = patient(browser.new_page(color_scheme="light"))
    page.goto(url)
    settle(page)
    page.evaluate(_PREPARE)
    page.wait_for_function("() => [...document.querySelectorAll('.hessinit-lab')].every(lab => lab.dataset.answered > 0)")
    still(page)
    margin = {"top": "20mm", "bottom": "22mm", "left": "20mm", "right": "20mm"}
    data = page.pdf(format="A4", scale=0.8, margin=margin, print_background=True, outline=True, tagged=True)
    title = page.locator("article h1").first.inner_text().rstrip("#").strip()
    page.close()
    return title, PdfReader(io.BytesIO(data))


def footers(browser, titles):
    """A PDF with nothing but the running title and the number at the foot of every page."""
    sheets = "".join(
        f'<div style="height:297mm; position:relative; break-after:page; font:9pt sans-serif; color:#444">'
        f'<span style="position:absolute; left:20mm; bottom:11mm">{html.escape(title)}</span>'
        f'<span style="position:absolute; right:20mm; bottom:11mm">{number}</span></div>'
        for number, title in enumerate(titles, 1)
    )
    page = browser.new_page()
    page.set_content(f'<body style="margin:0">{sheets}')
    data = page.pdf(format="A4", margin=dict.fromkeys(["top", "bottom", "left", "right"], "0"))
    page.close()
    return PdfReader(io.BytesIO(data))


def link_inside(writer, starts, site):
    """Links to other pages of the book lead to where those are in this document."""
    for sheet in writer.pages:
        for note in sheet.get("/Annots") or []:
            note = note.get_object()
            address = str(note.get("/A", {}).get("/URI", ""))
            if not address.startswith("file:"):
                continue
            path = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path))
            name = path.relative_to(site).with_suffix("").as_posix() if path.is_relative_to(site) else ""
            del note["/A"]  # a file of the machine that printed this is of no use to a reader
            if name in starts:
                target = writer.pages[starts[name]].indirect_reference
                note[NameObject("/Dest")] = ArrayObject([target, NameObject("/Fit")])


def resolve(reader):
    """Named places become explicit ones: chapters share names such as `exercises`."""
    places = reader.named_destinations
    for sheet in reader.pages:
        for note in sheet.get("/Annots") or []:
            note = note.get_object()
            place = places.get(str(note.get("/Dest", "")))
            if place is not None:
                note[NameObject("/Dest")] = ArrayObject([place.page.indirect_reference, *place.dest_array[1:]])


def make(browser, site, target, names):
    """Print the pages `names` of the site in the folder `site` to the file `target`; returns the number of sheets."""
    writer, starts, titles = PdfWriter(), {}, []
    for name in names:
        title, reader = print_page(browser, (site / f"{name}.html").as_uri())
        starts[name] = len(writer.pages)
        resolve(reader)
        writer.append(reader, outline_item=title, import_outline=True)
        titles += [title] * len(reader.pages)
        print(f"{len(reader.pages):4d} pages  {title}", flush=True)
    feet = footers(browser, titles)
    link_inside(writer, starts, site)
    for sheet, foot in zip(writer.pages, feet.pages):
        sheet.merge_page(foot)
        sheet.compress_content_streams()
    writer.add_metadata({"/Title": "From Variance to the Hessian"})
    writer.compress_identical_objects()
    writer.write(target)
    return len(titles)


if __name__ == "__main__":
    if not chromium():
        sys.exit("no `chromium` on the path to print the book with")
    folder = Path(sys.argv[1] if sys.argv[1:] else ROOT / "_build" / "html").resolve()
    target = folder / NAME
    with sync_playwright() as playwright, open_chromium(playwright) as browser:
        count = make(browser, folder, target, pages())
    index = folder / f"{pages()[0]}.html"  # its link is hidden while there is no PDF
    shown = index.read_text(encoding="utf-8").replace('class="book-pdf" hidden', 'class="book-pdf"')
    index.write_text(shown, encoding="utf-8")
    print(f"{target}: {count} pages, {target.stat().st_size / 1e6:.1f} MB")
