"""Docstrings of the module as Sphinx wants them.

In the module they are plain text: `code` in single backticks, and arguments as "name: text" with
continuation lines indented, which reads well in an editor. Here such arguments become a field list,
and everything outside of backticks is protected from being taken for markup.
"""

import re

ARGUMENT = re.compile(r"((?:[a-z_]\w*|\*\*?\w+|\"[\w+]+\")(?:, [a-z_]\w*)*): (.+)")


def as_rst(lines):
    """Docstring lines to reStructuredText lines."""
    result, in_field, before = [], False, ""
    for line in lines:
        # Within a paragraph, "word: more" goes on with a sentence of the line before.
        starts = in_field or not before or before.endswith((".", ":", ")", ";"))
        argument = ARGUMENT.fullmatch(line) if starts else None
        before = line.strip()
        text = _protect(argument[2] if argument else line)
        if argument:
            result += [] if in_field else [""]
            result.append(f":{argument[1].replace('*', chr(92) + '*')}: {text}")
            in_field = True
        elif in_field and line.startswith(" "):
            result.append("    " + text.strip())
        else:
            result += [""] if in_field and line else []
            result.append(text)
            in_field = False
    return result


def _protect(text):
    parts = re.split(r"`([^`]+)`", text)
    for i, part in enumerate(parts):
        parts[i] = f"``{part}``" if i % 2 else re.sub(r"([*|\\]|_\b)", r"\\\1", part)
    return "".join(parts)


def process(app, what, name, obj, options, lines):
    lines[:] = as_rst(lines)


def leave_torch_alone(app, config):
    """torch's own pages are not asked for, so that the build needs no network: its types are not links."""
    config.nitpick_ignore = [*config.nitpick_ignore, ("py:class", "torch.Tensor")]


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("config-inited", leave_torch_alone)
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
