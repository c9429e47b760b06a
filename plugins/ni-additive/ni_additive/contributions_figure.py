"""Images beside what their patches contributed."""

from __future__ import annotations

import io
import math

from torch import Tensor

from ni_additive.explain import Explained

_PAIRS = 5  # of image and contributions in a row
_RIGHT, _WRONG, _EDGE = "black", "#D55E00", "#56B4E9"


def picture(explained: Explained) -> bytes:
    """A PNG: each image, its true and predicted class, and beside it the contribution of each patch to the predicted class.

    All contributions share one scale, centred at 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    samples = len(explained.image)
    columns = min(samples, _PAIRS)
    rows = math.ceil(samples / columns)
    figure = Figure(figsize=(2.3 * columns + 1.1, 1.5 * rows + 0.1), layout="constrained")
    largest = max(float(explained.contribution.abs().max()), 1e-12)
    colours = ScalarMappable(Normalize(-largest, largest), "RdBu_r")
    # the third of three columns is a gap
    panels = figure.subplots(rows, 3 * columns, squeeze=False, width_ratios=(1, 1, 0.15) * columns)
    for axes in panels.flat:
        axes.axis("off")
    low, high = float(explained.image.min()), float(explained.image.max())
    for sample in range(samples):
        left, right = panels[sample // columns, 3 * (sample % columns) :][:2]
        true, predicted = int(explained.true_B[sample]), int(explained.predicted_B[sample])
        colour = _RIGHT if true == predicted else _WRONG
        for axes, title in ((left, f"true {true}"), (right, f"predicted {predicted}")):
            axes.axis("on")
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=9, color=colour)
        left.imshow(_shown(explained.image[sample], low, high), cmap="gray_r", vmin=0, vmax=1)
        for mark, sides in zip((left.axhline, left.axvline), _edges(explained), strict=True):
            for side in sides:
                mark(side, color=_EDGE, linewidth=0.6)
        right.imshow(explained.contribution[sample].numpy(), cmap=colours.cmap, norm=colours.norm)
        total = float(explained.contribution[sample].sum())
        right.set_xlabel(f"sum {total:+.1f}", fontsize=8, labelpad=2)
    bar = figure.colorbar(colours, ax=panels, shrink=0.9, aspect=15 * rows, pad=0.02)
    bar.set_label("contribution to\nthe predicted class", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    return content.getvalue()


def _edges(explained: Explained) -> list[list[float]]:
    """Where one patch ends and the next begins, by rows and by columns, in pixels."""
    pixels, patches = explained.image.shape[2:], explained.contribution.shape[1:]
    return [[size / number * n - 0.5 for n in range(1, number)] for size, number in zip(pixels, patches, strict=True)]


def _shown(image: Tensor, low: float, high: float) -> object:
    """An image [channels, rows, columns] in [0, 1], as matplotlib wants it: in colour if it has three channels."""
    image = (image - low) / max(high - low, 1e-12)
    return (image.movedim(0, 2) if len(image) == 3 else image.mean(dim=0)).numpy()
