"""A diagnosis on one page: as text, and as a page for a browser."""

import html as _html
import textwrap
from typing import Any

import numpy as np

from pinn_analysis.diagnosis._findings import HEALTHY
from pinn_analysis.diagnosis._measure import TRIAL_STEPS
from pinn_analysis.solving._linear import over

WIDTH = 76
HOLDS, REACH = 0.3, 10 * TRIAL_STEPS  # Movement of the kernel, and steps, up to which predictions held: chapter 24.
STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;
background:light-dark(#fff,#161616);color:light-dark(#1a1a1a,#e8e8e8)}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
pre{background:light-dark(#f2f2f2,#262626);padding:.6rem;overflow-x:auto;white-space:pre-wrap}
article{border-left:4px solid #d55e00;padding-left:1rem;margin:1.5rem 0}figure{background:#fff;padding:.5rem;margin:0}
svg{max-width:100%;height:auto}
"""


def verdict(diagnosis: Any) -> str:
    """One sentence."""
    error = diagnosis.measured.get("error")
    reason = diagnosis.not_measured.get("error", "not measured").removeprefix("ValueError: ")
    state = (
        f"relative error {error['relative']:.2g}, against {error['against']}" if error else f"error not known: {reason}"
    )
    n = len(diagnosis.findings)
    if n:
        return f"{diagnosis.problem}: {state}; {n} finding{'s' if n > 1 else ''}, most important first."
    if error and error["relative"] < HEALTHY:
        return f"{diagnosis.problem}: {state}; nothing found."
    return f"{diagnosis.problem}: {state}; no cause that this can see was found."


def table(diagnosis: Any) -> list[tuple[str, ...]]:
    """Rows by term: residuals, rate, weight that balances, predicted steps."""
    measured = diagnosis.measured
    if "kernel" not in measured or "residuals" not in measured:
        return []
    kernel, residuals = measured["kernel"], measured["residuals"]
    rows = [("term", "residual", "held out", "tr K/n", "eff. rank", "balances", "10 %", "1 %")]
    for name in kernel["rates"]:
        steps = (kernel["in use"][f"steps to {percent} %"][name] for percent in (10, 1))
        rows.append((
            name, f"{residuals['training'][name]:.2e}", f"{residuals['held_out'][name]:.2e}",
            f"{kernel['rates'][name]:.1e}", f"{kernel['effective rank'][name]:.1f}", f"{kernel['weights'][name]:.2g}",
            *("never" if np.isinf(s) else f"{s:.3g}" for s in steps),
        ))  # fmt: skip
    return rows


def trust(diagnosis: Any) -> list[str]:
    """What the last columns are, and how far the kernel can be believed here, if it was tried."""
    moved = diagnosis.measured.get("movement")
    if not table(diagnosis):
        return []
    steps = (
        "(10 %, 1 %: steps of gradient descent at half the largest stable rate, weights in use, as the kernel predicts"
    )
    if moved is None:
        return [f"{steps})"]
    name = max(moved["kernel"], key=moved["kernel"].__getitem__)
    worst = max(moved["measured"], key=lambda n: abs(np.log(over(moved["measured"][n], moved["predicted"][n]))))
    trusted = f"trust numbers of steps up to {REACH}; larger ones are mostly too large"
    so = trusted if moved["kernel"][name] < HOLDS else "do not trust numbers of steps"
    return [
        f"{steps}; tried: in {TRIAL_STEPS} of them the loss of {worst!r} goes to {moved['measured'][worst]:.2g}, "
        f"predicted {moved['predicted'][worst]:.2g}, and the kernel of {name!r} moves by "
        f"{100 * moved['kernel'][name]:.2g} %, so {so})"
    ]


def numbers(diagnosis: Any) -> list[str]:
    """Which number in an operator the network fits, in a line each."""
    swept = diagnosis.measured.get("sweep", {})
    return [
        f"(in the operator of {name!r} stands {found['now']:.6g}; the network, as it is, fits {found['fits']:.6g})"
        for name, found in swept.items()
    ]


def text(diagnosis: Any) -> str:
    """The findings, each with number, threshold, certainty, advice and gain; the terms; what is missing."""
    lines = [*textwrap.wrap(verdict(diagnosis), WIDTH), ""]
    for i, f in enumerate(diagnosis.findings, 1):
        lines.append(f"{i}. {f.cause.upper()}{' · ' + f.where if f.where else ''}")
        for part in (
            f"{f.evidence}.", f"Number {f.number:.3g}, threshold {f.threshold:g} ({f.source}); {f.certainty}.",
            f"Expect: {f.gain}.",
        ):  # fmt: skip
            lines += textwrap.wrap(part[0].upper() + part[1:], WIDTH, initial_indent="   ", subsequent_indent="   ")
        lines += [*_advice(f.advice), ""]
    rows = table(diagnosis)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = trust(diagnosis) + numbers(diagnosis)
    for line in notes + [f"not measured: {name}: {why}" for name, why in diagnosis.not_measured.items()]:
        lines += textwrap.wrap(line, WIDTH)
    return "\n".join(lines)


def _advice(code: str) -> list[str]:
    """Code, broken where its brackets let it, and its comment below it."""
    code, _, comment = code.partition("   # ")
    within = {"width": WIDTH, "break_long_words": False, "break_on_hyphens": False}
    lines = textwrap.wrap(code, initial_indent="   try: ", subsequent_indent=" " * 12, **within)
    return lines + textwrap.wrap(comment, initial_indent=" " * 8 + "# ", subsequent_indent=" " * 8 + "# ", **within)


def html(diagnosis: Any, figure: str) -> str:
    """A page with everything in it."""
    e = _html.escape
    findings = "".join(
        f"<article><h2>{i}. {e(f.cause)}{' · ' + e(f.where) if f.where else ''}</h2><p>{e(f.evidence)}.</p>"
        f"<p>Number {f.number:.3g}, threshold {f.threshold:g} ({e(f.source)}); {e(f.certainty)}.</p>"
        f"<pre>{e(f.advice)}</pre><p>Expect: {e(f.gain)}.</p></article>"
        for i, f in enumerate(diagnosis.findings, 1)
    )
    rows = "".join(
        "<tr>" + "".join(f"<{tag}>{e(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * 99, table(diagnosis), strict=False)
    )
    missing = "".join(f"<li>{e(name)}: {e(why)}</li>" for name, why in diagnosis.not_measured.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Diagnosis of {e(diagnosis.problem)}</title><style>{STYLE}</style>"
        f"<h1>{e(diagnosis.problem)}</h1><p>{e(verdict(diagnosis))}</p>{findings}"
        f'<figure role="img" aria-label="Residuals, spectrum, steps and error">{figure}</figure>'
        f"<h2>Terms</h2><table>{rows}</table>"
        + "".join(f"<p>{e(line)}</p>" for line in trust(diagnosis) + numbers(diagnosis))
        + (f"<h2>Not measured</h2><ul>{missing}</ul>" if missing else "")
        + "</html>\n"
    )
