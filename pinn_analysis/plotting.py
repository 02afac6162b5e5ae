"""Figures: every function takes an axis, draws, and returns it.

One colour per loss term throughout, and no titles inside the plot: captions say it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes

from pinn_analysis.ntk import KernelBlocks, KernelOperator

#: Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = {
    "residual": "#d55e00",
    "boundary": "#0072b2",
    "initial": "#009e73",
    "initial_velocity": "#cc79a7",
    "all": "#444444",
    "error": "#000000",
}


def curves(ax: Axes, x: ArrayLike, values: Mapping[str, ArrayLike], **style: Any) -> Axes:
    """Positive curves by name on a log axis; with several rows, their median and range.

    Args:
        ax: where to draw.
        x: ``(t,)``.
        values: ``(t,)`` or ``(seeds, t)`` by name; `COLORS` gives the colours of terms.
        **style: of the lines, as `matplotlib.axes.Axes.plot` takes it.
    """
    for name, y in values.items():
        y = np.atleast_2d(y)
        options: dict[str, Any] = {"color": COLORS.get(name), "lw": 2, "label": name.replace("_", " ")} | style
        (line,) = ax.plot(x, np.median(y, 0), **options)
        if len(y) > 1:
            ax.fill_between(x, y.min(0), y.max(0), color=line.get_color(), alpha=0.2, lw=0)
    ax.set_yscale("log")
    return ax


def spectrum(ax: Axes, eigenvalues: Mapping[str, ArrayLike], **style: Any) -> Axes:
    """Eigenvalues against their index, from 1, both on log axes; those not positive are left out."""
    for name, values in eigenvalues.items():
        values = np.asarray(values)
        index = np.arange(1, len(values) + 1)
        keep = values > 0
        curves(ax, index[keep], {name: values[keep]}, **({"marker": ".", "lw": 1} | style))
    ax.set(xscale="log", xlabel="index", ylabel="eigenvalue")
    return ax


def heatmap(ax: Axes, values: ArrayLike, low: ArrayLike, high: ArrayLike, **style: Any) -> Axes:
    """A function on a 2-D box from its values on `problems.grid`, first axis to the right."""
    extent = np.stack([np.asarray(low), np.asarray(high)], axis=1).ravel()  # Left, right, bottom, top.
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto", "extent": extent, "cmap": "RdBu_r"} | style
    image = ax.imshow(np.asarray(values).T, **options)
    ax.figure.colorbar(image, ax=ax)
    return ax


def kernel(ax: Axes, blocks: KernelBlocks | KernelOperator) -> Axes:
    """A kernel as a picture: ``sign(K) log10(1 + |K|)``, with lines between its blocks."""
    matrix = np.asarray(blocks.dense().matrix)
    values = np.sign(matrix) * np.log10(1 + np.abs(matrix))
    limit = np.abs(values).max()
    image = ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.figure.colorbar(image, ax=ax, label=r"sign$(K)\,\log_{10}(1 + |K|)$")
    ends = np.cumsum(blocks.sizes)
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color="black", lw=1)
        ax.axvline(end - 0.5, color="black", lw=1)
    middles = ends - np.array(blocks.sizes) / 2 - 0.5
    names = [name.replace("_", " ") for name in blocks.names]
    ax.set_xticks(middles, names)
    ax.set_yticks(middles, names, rotation=90, va="center")
    return ax
