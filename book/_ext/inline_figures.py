"""Stored figures as a part of their page: crisp at any size, in the colours of its theme.

Chapters store matplotlib's SVG. As an image it would keep its own colours; in the page it takes the text's.
"""

import re

from hessinit_lite.plots import themed

#: Three marks or more in a row that look the same: their style is said once.
ALIKE = re.compile(r'<use [^>]*? style="([^"]*)"/>\n(?:<use [^>]*? style="\1"/>\n){2,}')
LETTER = re.compile(r'<path id="(DejaVu[^"]*)"[^>]*/>\n?')


def inline(svg, text, letters):
    """The <svg> of a figure, as wide as it was drawn or as the page; `text`: its alternative, as HTML.

    Names that only group are left out: several figures share a page. References by name (clip paths,
    markers) stay, since matplotlib makes their names from what they name. `letters` are those that
    earlier figures of the page have drawn: they are not drawn again, and this one's are added.
    """
    svg = themed(svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", svg)
    width, height = (float(each) for each in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    size = f'style="width:{width * 4 / 3:.0f}px; aspect-ratio:{width:g}/{height:g}"'  # a point is 4/3 pixels
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = ALIKE.sub(_said_once, svg)
    drawn = frozenset(letters)
    svg = LETTER.sub(lambda letter: "" if letter[1] in drawn else letter[0], svg)
    letters.update(LETTER.findall(svg))
    return svg.replace("<svg", f'<svg class="figure" role="img" aria-label="{text}" {size}', 1)


def _said_once(row):
    style = f' style="{row[1]}"'
    return f"<g{style}>\n{row[0].replace(style, '')}</g>\n"
