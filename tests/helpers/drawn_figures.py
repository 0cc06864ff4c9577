"""The axes of figures that a test draws."""

import matplotlib.axes
from PIL import Image


def record_axes(monkeypatch):
    """Return a list that grows by the axes of each figure, in the order in which they are made."""
    axes = []
    original = matplotlib.axes.Axes.__init__

    def record(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        axes.append(self)

    monkeypatch.setattr(matplotlib.axes.Axes, "__init__", record)
    return axes


def legend_of(artist):
    """Return the texts of the legend of axes or of a figure."""
    legend = artist.get_legend() if hasattr(artist, "get_legend") else artist.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def assert_png(path):
    """Fail unless a file is a PNG image."""
    with Image.open(path) as image:
        assert image.format == "PNG"
