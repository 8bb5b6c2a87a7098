"""Axes that count layers or show sizes, as figures of several chapters have them."""

import torch


def some_layers(depth, most=13):
    """At most `most` layers out of 1..depth, evenly spaced, the first and the last among them."""
    return torch.linspace(1, depth, min(depth, most)).round().long()


def two_decades(axes):
    """A vertical axis from 0.1 to 10 at least, so that a level line looks level."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.1), max(high, 10.0))
