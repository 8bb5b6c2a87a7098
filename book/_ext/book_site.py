"""What the built site takes from its surroundings: the repository's address and MathJax.

GITHUB_REPOSITORY ("owner/name", set by GitHub in every workflow) fills the repository and Colab
buttons; without it those buttons are left out, so that no link points at someone else's repository.
MathJax is copied out of the package sphinx-mathjax-offline: one file, so that the pages need no network.
"""

import os
import shutil
from importlib.metadata import files
from pathlib import Path

ASSETS = Path(__file__).parent.parent / "_assets"


def fill_repository(app, config):
    options = config.html_theme_options
    name = os.environ.get("GITHUB_REPOSITORY")
    if name:
        options.update(
            repository_url=f"https://github.com/{name}", use_repository_button=True, use_issues_button=True
        )
    else:
        options.update(repository_url="", launch_buttons={})


def copy_mathjax(app, config):
    (source,) = (f for f in files("sphinx-mathjax-offline") if f.name == "tex-svg.js")
    target = ASSETS / "mathjax" / "tex-svg.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.locate(), target)


def setup(app):
    app.connect("config-inited", fill_repository, priority=0)
    app.connect("config-inited", copy_mathjax, priority=0)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
