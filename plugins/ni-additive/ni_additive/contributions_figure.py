"""A figure of images and the contributions of their patches."""

from __future__ import annotations

import io
import math

from torch import Tensor

from ni_additive.explain import Explanation

# The number of images in a row, each with its contributions on the right.
_PAIRS_PER_ROW = 5
_CORRECT_COLOUR, _INCORRECT_COLOUR, _GRID_COLOUR = "black", "#D55E00", "#56B4E9"


def draw_contributions(explanation: Explanation) -> bytes:
    """Returns a PNG with each image, its true and predicted class, and the contribution of each patch to the predicted class.

    All contributions have the same colour scale, centred at 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    samples = len(explanation.image)
    columns = min(samples, _PAIRS_PER_ROW)
    rows = math.ceil(samples / columns)
    figure = Figure(figsize=(2.3 * columns + 1.1, 1.5 * rows + 0.1), layout="constrained")
    largest = max(float(explanation.contribution.abs().max()), 1e-12)
    colours = ScalarMappable(Normalize(-largest, largest), "RdBu_r")
    # The third of three columns is a gap.
    panels = figure.subplots(rows, 3 * columns, squeeze=False, width_ratios=(1, 1, 0.15) * columns)
    for axes in panels.flat:
        axes.axis("off")
    low, high = float(explanation.image.min()), float(explanation.image.max())
    for sample in range(samples):
        left, right = panels[sample // columns, 3 * (sample % columns) :][:2]
        true, predicted = int(explanation.true_B[sample]), int(explanation.predicted_B[sample])
        colour = _CORRECT_COLOUR if true == predicted else _INCORRECT_COLOUR
        for axes, title in ((left, f"true {true}"), (right, f"predicted {predicted}")):
            axes.axis("on")
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=9, color=colour)
        left.imshow(_to_displayable(explanation.image[sample], low, high), cmap="gray_r", vmin=0, vmax=1)
        for mark, sides in zip((left.axhline, left.axvline), _patch_edges(explanation), strict=True):
            for side in sides:
                mark(side, color=_GRID_COLOUR, linewidth=0.6)
        right.imshow(explanation.contribution[sample].numpy(), cmap=colours.cmap, norm=colours.norm)
        total = float(explanation.contribution[sample].sum())
        right.set_xlabel(f"sum {total:+.1f}", fontsize=8, labelpad=2)
    bar = figure.colorbar(colours, ax=panels, shrink=0.9, aspect=15 * rows, pad=0.02)
    bar.set_label("contribution to\nthe predicted class", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    return content.getvalue()


def _patch_edges(explanation: Explanation) -> list[list[float]]:
    """Returns the positions of the edges between patches, along rows and along columns, in pixels."""
    pixels, patches = explanation.image.shape[2:], explanation.contribution.shape[1:]
    return [[size / number * n - 0.5 for n in range(1, number)] for size, number in zip(pixels, patches, strict=True)]


def _to_displayable(image: Tensor, low: float, high: float) -> object:
    """Returns an image for matplotlib: in colour if it has three channels, otherwise grey.

    Args:
        image: The image, [channels, rows, columns].
        low: The pixel value that is shown as 0.
        high: The pixel value that is shown as 1.
    """
    image = (image - low) / max(high - low, 1e-12)
    return (image.movedim(0, 2) if len(image) == 3 else image.mean(dim=0)).numpy()
