"""A line of the results page: a claim, what was found, and a verdict that a rule gives."""

import html
from typing import NamedTuple

FEWEST = 2  #: trained nets without which a line has no verdict


class Line(NamedTuple):
    """One claim of the paper beside what we find.

    The verdict is a function of `met` alone: which parts of the rule are met.

    Example:
        >>> from hessinit_lite.lab.paper.verdict import Line
        >>> Line("Remark 0", "2 + 2 = 4, 5", "4, 5", "the sum", (True, False), "1", "-").verdict
        'in part'
    """

    item: str  #: of the paper
    claim: str  #: what it says
    here: str  #: what we find
    rule: str  #: when it counts as met, part by part
    met: tuple  #: a bool for each part of the rule; empty: not run, or too few runs
    chapter: str  #: file name of the page that treats it
    sample: str  #: scale and number of seeds

    @property
    def verdict(self):
        """ "yes" if all parts are met, "in part", "no"; "not run"; "not judged": too few runs."""
        if not self.met:
            return "not judged" if self.rule else "not run"
        return "yes" if all(self.met) else "in part" if any(self.met) else "no"


def with_runs(line, runs):
    """The Line, without a verdict if there are fewer than FEWEST runs behind it."""
    return line if runs >= FEWEST else line._replace(met=())


def not_run(item, claim, why, chapter):
    """A Line without a verdict."""
    return Line(item, claim, why, "", (), chapter, "")


#: columns of a table of Lines
NAMES = "of the paper", "it says", "we find", "rule, by parts", "verdict", "treated in"


class Verdicts:
    """Lines as a table: HTML on the page, item and verdict as plain text elsewhere.

    Args:
        lines: of `Line`.
        caption: what the lines are.

    Example:
        >>> from hessinit_lite.lab.paper.verdict import Line, Verdicts
        >>> print(Verdicts([Line("Remark 0", "1 = 1", "equal", "equal", (True,), "errata", "-")]))
        Remark 0: yes
    """

    def __init__(self, lines, caption=""):
        self.lines, self.caption = list(lines), caption

    def __str__(self):
        return "\n".join(f"{line.item}: {line.verdict}" for line in self.lines)

    __repr__ = __str__

    def _repr_html_(self):
        head = "".join(f'<th scope="col">{name}</th>' for name in NAMES)
        body = "".join(f"<tr>{self._cells(line)}</tr>" for line in self.lines)
        label = html.escape(self.caption or "Verdicts", quote=True)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="hessinit-table words" role="region" tabindex="0" aria-label="{label}" '
            f'style="overflow-x: auto"><table>{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    @staticmethod
    def _cells(line):
        here = f"{line.here} ({line.sample})" if line.sample else line.here
        texts = line.item, line.claim, here, line.rule, line.verdict
        number = line.chapter[:2]  # 10b-… is a page of chapter 10
        place = number if number.isdigit() else line.chapter
        link = f'<a href="{line.chapter}.html">{place}</a>'
        shown = [*map(html.escape, texts), link]  # on a phone a cell says itself what it is
        return "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in zip(NAMES, shown))
