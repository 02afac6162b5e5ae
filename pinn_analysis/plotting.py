"""Figures: every function takes an axis, draws, and returns it.

One colour per loss term throughout, and no titles inside the plot: captions say it.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pinn_analysis.ntk import KernelBlocks, KernelOperator
from pinn_analysis.solving._linear import over

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


def diagnosis(measured: Mapping[str, Mapping[str, Any]], x: ArrayLike) -> Figure:
    """What `diagnosis.diagnose` measured at the points ``x``; a panel without its measurement stays empty."""
    fig = Figure(figsize=(14, 6), layout="constrained")
    axes = fig.subplots(2, 4).ravel()
    if "residuals" in measured:
        residuals = {f"{where.replace('_', ' ')} points": r for where, r in measured["residuals"].items()}
        _paired_bars(axes[0], residuals, "residual, root mean square")
    if "kernel" in measured:
        both = {"weights in use": measured["kernel"]["in use"], "balanced": measured["kernel"]["balanced"]}
        spectrum(axes[1], {which: of["eigenvalues"] for which, of in both.items()})
        axes[1].legend(frameon=False)
        steps = {which: {name: min(n, 1e16) for name, n in of["steps to 10 %"].items()} for which, of in both.items()}
        _paired_bars(axes[2], steps, "predicted steps to 10 %")
    if "step" in measured:
        tried = {"optimiser as it is": measured["step"]["as it is"], "steps a tenth": measured["step"]["a tenth"]}
        curves(axes[3], measured["step"]["steps"], tried)
        axes[3].set(xlabel="further steps", ylabel="loss")
        axes[3].legend(frameon=False)
    if "reference" in measured:
        _over_space(fig, axes[4], x, measured["reference"]["difference"][:, 0], "network less reference")
    if "inputs" in measured:
        axes[5].bar(range(len(measured["inputs"]["saturated"])), measured["inputs"]["saturated"], color=COLORS["all"])
        axes[5].set(xlabel="layer", ylabel="share of saturated activations", ylim=(0, 1))
    if "kernel" in measured and "residuals" in measured:
        left = measured["kernel"]["in use"]["left after 10,000 steps"]
        name = max(left, key=lambda name: over(left[name], measured["residuals"]["training"][name]))
        at, stays = measured["kernel"]["points"][name], measured["kernel"]["in use"]["stays"][name]
        _over_space(fig, axes[6], at, stays.reshape(len(at), -1)[:, 0], f"what stays of {name.replace('_', ' ')}")
    if "movement" in measured:
        losses = {which: measured["movement"][which] for which in ("predicted", "measured")}
        _paired_bars(axes[7], losses, "loss after some steps of descent")
    return fig


def _paired_bars(ax: Axes, heights: Mapping[str, Mapping[str, float]], label: str) -> None:
    """Two heights of each name, side by side, on a log axis."""
    names = list(next(iter(heights.values())))
    for shift, (which, of) in zip((-0.2, 0.2), heights.items(), strict=True):
        ax.bar(np.arange(len(names)) + shift, [of[name] for name in names], 0.4, label=which)
    ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set(yscale="log", ylabel=label)
    ax.legend(frameon=False)


def _over_space(fig: Figure, ax: Axes, x: ArrayLike, y: np.ndarray, label: str) -> None:
    """A curve over one input, colours over the first two of several."""
    x = np.asarray(x)
    if x.shape[1] == 1:
        order = np.argsort(x[:, 0])
        ax.plot(x[order, 0], y[order], color=COLORS["error"])
        ax.set(xlabel="x", ylabel=label)
    else:
        limit = np.abs(y).max()
        points = ax.scatter(x[:, 0], x[:, 1], c=y, s=12, cmap="RdBu_r", vmin=-limit, vmax=limit)
        fig.colorbar(points, ax=ax, label=label)


def svg(figure: Figure) -> str:
    """A figure as an element of a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


def slider(label: str, figures: Mapping[str, Figure]) -> str:
    """Figures of which a slider shows one, as an element of a page: static, and without a script the last one."""
    drawn = [
        f"<div role='img' aria-label='{label} {value}' {'' if i == len(figures) - 1 else 'hidden'}>{svg(figure)}</div>"
        for i, (value, figure) in enumerate(figures.items())
    ]
    show = (
        "const all = [...this.closest('figure').querySelectorAll('[role=img]')];"
        "all.forEach((one, i) => one.hidden = i != this.value);"
        "this.nextElementSibling.value = all[this.value].ariaLabel;"
    )
    last = len(figures) - 1
    return (
        '<figure class="slider"><label>'
        f'<input type="range" min="0" max="{last}" value="{last}" oninput="{show}" aria-label="{label}">'
        f" <output>{label} {list(figures)[-1]}</output></label>{''.join(drawn)}</figure>"
    )
