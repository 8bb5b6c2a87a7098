"""The directive `laboratory`: hl.laboratory on a page, by the same function that notebooks call.

```{laboratory}
:link:
:depth: 30
```

Its options are the function's arguments; `link` keeps the setting in the page's address.
"""

from docutils import nodes
from docutils.parsers.rst import Directive, directives

import hessinit_lite as hl

WHOLE, REAL = ("depth", "width", "seed"), ("factor", "biases", "dropout", "rate")


class LaboratoryDirective(Directive):
    option_spec = {
        "link": directives.flag,
        "balanced": directives.flag,
        **dict.fromkeys(("activation", "scheme", "optimizer", "view"), directives.unchanged_required),
        **dict.fromkeys(WHOLE, int),
        **dict.fromkeys(REAL, float),
    }

    def run(self):
        arguments = {name: value for name, value in self.options.items() if name != "link"}
        if "balanced" in arguments:
            arguments["balanced"] = True
        try:
            page = hl.laboratory(**arguments).html(link="link" in self.options)
        except ValueError as error:
            raise self.error(str(error)) from error
        for path in hl.laboratory().files():  # a page is made anew when they change
            self.state.document.settings.record_dependencies.add(str(path))
        return [nodes.raw("", page, format="html")]


def setup(app):
    app.add_directive("laboratory", LaboratoryDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
