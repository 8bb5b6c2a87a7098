"""Explorable figures: every frame is in the output, small, and the live panel draws the same figures."""

import base64
import functools
import gzip
import inspect
import json
import re

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

import hessinit_lite as hl
from hessinit_lite.lab.explorable import draw
from hessinit_lite.plots import panels_in_a_row, to_svg


def figure(depth, activation, shift=0):
    """A line with a slope."""
    result, (axes,) = panels_in_a_row()
    axes.plot([0, depth], [shift, len(activation)], color="black")
    axes.set(xlabel="depth (layers)", ylabel="y (units)", title=f"{activation} {depth}")
    return result


def frames_of(explorable):
    """The SVG texts, decoded from the HTML as the script does it."""
    page = explorable._repr_mimebundle_()["text/html"]
    data = json.loads(gzip.decompress(base64.b64decode(re.search('data-frames="([^"]+)"', page)[1])))
    frames = []
    for steps in data["frames"]:
        at, lines = 0, []
        for step in steps:
            at += step
            lines.append(data["lines"][at])
        frames.append("\n".join(lines))
    return frames, data["labels"]


def test_every_combination_has_its_frame():
    explorable = hl.explore(figure, depth=[2, 5, 10], activation=["tanh", "relu"], shift=[1])
    frames, labels = frames_of(explorable)
    assert frames == explorable.frames and len(set(frames)) == 6
    assert labels == [["2", "5", "10"], ["tanh", "relu"]]  # an axis with one value has no control
    assert explorable.default == {"depth": 5, "activation": "relu", "shift": 1}


def test_the_output_needs_no_script_to_show_the_default_frame():
    bundle = hl.explore(figure, depth=[2, 5, 10], activation=["tanh", "relu"])._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert 'src="data:image/svg+xml,' in bundle["text/html"] and "alt=\"A line with a slope, depth = 5" in bundle["text/html"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    for tag in re.findall("<(?:input|select)[^>]*>", bundle["text/html"]):
        assert "aria-label=" in tag and "data-lm-suppress-shortcuts" in tag
    assert 'aria-valuetext="5"' in bundle["text/html"]


def test_no_outside_address_and_the_same_output_every_time():
    pages = [hl.explore(figure, depth=[2, 5], activation=["relu"])._repr_mimebundle_()["text/html"] for _ in range(2)]
    assert pages[0] == pages[1]
    assert set(re.findall(r"https?://[^\"'\s)%]+", pages[0])) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_a_figure_of_64_frames_is_small():
    explorable = hl.explore(figure, depth=list(range(2, 10)), activation=list(hl.ACTIVATIONS))
    assert len(explorable.frames) == 64
    assert len(explorable._repr_mimebundle_()["text/html"]) < 200_000


@pytest.mark.parametrize("arguments, error, message", [
    (dict(figure_fn=3, depth=[1]), TypeError, "must be a function"),
    (dict(figure_fn=figure), ValueError, "at least one axis"),
    (dict(figure_fn=figure, depth=5), TypeError, "axis 'depth' must be a list"),
    (dict(figure_fn=figure, depth=[]), ValueError, "axis 'depth' is empty"),
    (dict(figure_fn=lambda depth: None, depth=[1]), TypeError, "must return a matplotlib Figure"),
])
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        hl.explore(**arguments)


def test_errors_of_the_figure_are_passed_on():
    with pytest.raises(ValueError, match="known: linear, tanh"):
        hl.explore(hl.figures.principle, depth=[2], activation=["swish"])


def test_the_live_panel_draws_anew():
    drawn = []

    def spy(depth, activation, width=8):
        """A figure that keeps a record."""
        drawn.append((depth, activation, width))
        if depth == 10:
            raise ValueError("<too deep>")
        return figure(depth, activation)

    panel = hl.explore(spy, depth=[2, 5], activation=["relu", "tanh"]).live(width=[16, 32], depth=[2, 5, 10])
    *controls, message, shown = panel.children
    depth, activation, width = controls
    assert drawn[-1] == (2, "relu", 16)
    before = shown.value
    assert before.startswith('<svg role="img" aria-label="A figure that keeps a record, depth = 2, activation = relu, width = 16"')
    assert "currentColor" in before and "#000000" not in before  # it follows the theme
    activation.value = "tanh"
    width.value = 32
    assert drawn[-1] == (2, "tanh", 32) and message.value == ""
    assert shown.value != before and "activation = tanh, width = 32" in shown.value
    depth.value = 10  # an error is shown above the pale figure, and gone with the next one
    assert message.value == "ValueError: &lt;too deep&gt;"
    assert shown.value.startswith('<div style="opacity:0.3"><svg ') and "depth = 2, activation = tanh" in shown.value
    depth.value = 5
    assert message.value == "" and shown.value.startswith("<svg ") and "depth = 5" in shown.value


def test_a_figure_of_the_book_is_drawn_once(monkeypatch):
    """As long as nothing has changed that it follows from; a reader's own function may follow from anything."""
    settings = dict(depth=[2, 3], activation=["relu"])
    first = hl.explore(hl.figures.misprints, **settings)
    assert hl.explore(hl.figures.misprints, **settings) is first
    assert hl.explore(hl.figures.misprints, depth=[3, 2], activation=["relu"]).frames == first.frames[::-1]
    first = hl.explore(hl.figures.misprints, **settings)
    with matplotlib.rc_context({"lines.linewidth": 3}):
        assert hl.explore(hl.figures.misprints, **settings).frames != first.frames
    assert hl.explore(hl.figures.misprints, **settings).frames == first.frames
    assert hl.explore(figure, **settings) is not hl.explore(figure, **settings)
    own = functools.partial(hl.figures.misprints, width=8)
    assert hl.explore(own, **settings).frames != first.frames


def test_the_functions_own_default_is_shown_first():
    def own(depth, activation="tanh", shift=5):
        return figure(depth, activation)

    axes = dict(depth=[1, 2, 3], activation=["relu", "tanh"])
    assert hl.explore(own, **axes).default == {"depth": 2, "activation": "tanh"}
    assert hl.explore(figure, **axes).default == {"depth": 2, "activation": "relu"}
    assert hl.explore(own, activation=["relu", "selu"], depth=[4], shift=[1, 2]).default["activation"] == "relu"


FIGURES = [name.removeprefix("measure_") for name in vars(hl.figures) if name.startswith("measure_")]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_its_measurement_and_its_drawing(name):
    """Same arguments, same defaults; the numbers are named tensors, numbers and words."""
    figure, measure = getattr(hl.figures, name), getattr(hl.figures, f"measure_{name}")
    assert inspect.signature(figure) == inspect.signature(measure)
    values = dict(depth=3, activation="tanh")
    numbers = measure(**values)
    assert numbers._fields
    drawn = draw(lambda depth, activation: getattr(hl.figures, f"draw_{name}")(numbers, depth, activation), values, to_svg)
    assert drawn == draw(figure, values, to_svg)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_of_the_book_draws_its_corners(name):
    """Shallow and deep, steepest and flattest activation: a Figure with labelled axes."""
    for depth, activation in [(2, "relu"), (50, "sigmoid"), (50, "linear")]:
        result = getattr(hl.figures, name)(depth, activation)
        assert isinstance(result, Figure)
        for axes in result.axes:
            assert axes.get_xlabel() and axes.get_ylabel()
            assert any(len(line.get_xdata()) > 1 for line in axes.lines)


def test_powers_of_ten_are_plain_letters():
    """As matplotlib would set them in TeX: powers, values between them, below one, negative, zero."""
    result, panels = panels_in_a_row(2)
    panels[0].set(yscale="log", ylim=(1e-3, 1e4))
    panels[1].set(yscale="symlog", ylim=(-100, 100), xscale="log", xlim=(2e-2, 7e-2))
    svg = to_svg(result)
    labels = [label.get_text() for axes in panels for axis in (axes.xaxis, axes.yaxis)
              for label in axis.get_ticklabels(which="both") if label.get_text()]
    assert {"10⁻³", "10⁴", "−10¹", "0", "6×10⁻²"} <= set(labels)
    assert not any("$" in label for label in labels) and "<svg" in svg


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_lost_in_rounding_give_no_difference(threads):
    """Chapter 7 says so of float32: the gradients that are compared must come out of one kernel."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        numbers = hl.figures.measure_difference_error(3, "tanh", samples=128)
    finally:
        torch.set_num_threads(before)
    for errors in (numbers.one_sided, numbers.central):
        assert float(errors[0, 0]) == pytest.approx(1, abs=0.1)
