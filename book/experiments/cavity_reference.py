"""The lid-driven cavity at Re = 100, solved by finite differences.

    python book/experiments/cavity_reference.py [--finest 198]

For chapter 10.  Streamfunction ψ with ω = -Δψ: central differences of second order, Thom's formula for the
vorticity on the walls, Newton's method with a sparse direct solve.  The two finest grids
contain the 100 x 100 points on which errors are measured; the field is Richardson's
extrapolation from both.  Three more grids, each half of the next, give the observed order.
Two lids: u = 1, where the velocity jumps in the corners, and the parabola 4x(1 - x).
"""

import jax

jax.config.update("jax_enable_x64", True)  # The precision on record; NumPy does the work.

import numpy as np
import scipy.sparse as sp
from pinn_analysis import results
from scipy.interpolate import make_interp_spline
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import splu

import runs

REYNOLDS = 100
LIDS = {"uniform": lambda x: np.ones_like(x), "parabolic": lambda x: 4 * x * (1 - x)}
# Extreme, component, is it along x = 0.5, where it is looked for.
EXTREMES = {"u_min": (0, True, (0.3, 0.6)), "v_max": (1, False, (0.1, 0.4)), "v_min": (1, False, (0.7, 0.95))}


def solve(n: int, lid, reynolds: float = REYNOLDS, tolerance: float = 1e-10) -> tuple[np.ndarray, ...]:
    """ψ, u and v at the (n + 1)² nodes, first axis x."""
    nodes, h, nu = n + 1, 1 / n, 1 / reynolds
    one = sp.identity(nodes, format="csr")
    d1 = sp.diags_array([-1.0, 1.0], offsets=[-1, 1], shape=(nodes, nodes)) / (2 * h)
    d2 = sp.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(nodes, nodes)) / h**2
    dx, dy, laplace = sp.kron(d1, one), sp.kron(one, d1), sp.kron(d2, one) + sp.kron(one, d2)
    i, j = np.divmod(np.arange(nodes**2), nodes)
    inside = (i > 0) & (i < n) & (j > 0) & (j < n)
    inner = np.flatnonzero(inside)
    put = sp.csr_array((np.ones(inner.size), (inner, np.arange(inner.size))), shape=(nodes**2, inner.size))

    # ω = vorticity @ ψ + moving at all nodes; on a wall ω = -2 (ψ_next + h U) / h²  (Thom).
    vorticity = -sp.diags_array(inside.astype(float)) @ laplace
    along_x, along_y = (j > 0) & (j < n), (i > 0) & (i < n)
    walls = ((i == 0) & along_x, nodes), ((i == n) & along_x, -nodes), ((j == 0) & along_y, 1), ((j == n) & along_y, -1)
    for wall, to_next in walls:
        at = np.flatnonzero(wall)
        vorticity += sp.csr_array((np.full(at.size, -2 / h**2), (at, at + to_next)), shape=vorticity.shape)
    moving = np.where((j == n) & along_y, -2 / h * lid(i * h), 0.0)

    # F(ψ) = u·∇ω - ν Δω at the inner nodes.
    of_u, of_v = (put.T @ dy @ put).tocsr(), (-(put.T @ dx @ put)).tocsr()
    operators = [put.T @ operator for operator in (dx, dy, laplace)]
    of_x, of_y, of_lap = (operator @ vorticity @ put for operator in operators)
    by_x, by_y, by_lap = (operator @ moving for operator in operators)
    psi = np.zeros(inner.size)
    for _ in range(20):
        u, v, w_x, w_y = of_u @ psi, of_v @ psi, of_x @ psi + by_x, of_y @ psi + by_y
        residual = u * w_x + v * w_y - nu * (of_lap @ psi + by_lap)
        jacobian = (
            sp.diags_array(u) @ of_x + sp.diags_array(v) @ of_y
            + sp.diags_array(w_x) @ of_u + sp.diags_array(w_y) @ of_v - nu * of_lap
        )  # fmt: skip
        step = splu(jacobian.tocsc()).solve(-residual)
        psi = psi + step
        if np.abs(step).max() < tolerance:
            break
    else:
        raise RuntimeError(f"Newton's method did not converge on {n} cells.")
    full = put @ psi
    u, v = (dy @ full).reshape(nodes, nodes), -(dx @ full).reshape(nodes, nodes)
    for values in (u, v):
        values[[0, -1]] = 0
        values[:, [0, -1]] = 0
    u[:, -1] = lid(np.linspace(0, 1, nodes))
    return full.reshape(nodes, nodes), u, v


def extremes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Value and place of each of `EXTREMES`, by quintic splines."""
    x = np.linspace(0, 1, len(u))
    found = []
    for name, (component, vertical, bounds) in EXTREMES.items():
        values = (u, v)[component] if vertical else (u, v)[component].T
        line = make_interp_spline(x, make_interp_spline(x, values, 5)(0.5), 5)
        sign = 1 if name.endswith("min") else -1
        best = minimize_scalar(lambda t, f=line, s=sign: s * f(t), bounds=bounds, method="bounded",
                               options={"xatol": 1e-10})  # fmt: skip
        found.append((sign * best.fun, best.x))
    return np.array(found)


def make(config: dict) -> dict[str, np.ndarray]:
    lid, points = LIDS[config["lid"]], config["test_points"]
    fields, found = [], []
    for n in config["grids"]:
        psi, u, v = solve(n, lid)
        found.append(extremes(u, v))
        if n % (points - 1) == 0:
            k = n // (points - 1)
            fields.append(np.stack([psi, u, v])[:, ::k, ::k])
    coarse, fine = fields[-2:]
    return {
        "fields": (fine + (fine - coarse) / 3).astype(np.float32),  # ψ, u, v.
        "change": np.sqrt(np.mean(((fine - coarse) / 3) ** 2, (1, 2))),  # By extrapolation.
        "extremes": np.stack(found),
    }


def configs(finest: int, test: int) -> dict[str, dict]:
    if finest % (2 * (test - 1)):
        raise SystemExit(f"`--finest` must be a multiple of {2 * (test - 1)}, got {finest}.")
    # Three halvings for the order; two for the extrapolated field, on other grids.
    grids = [finest // 6, finest // 3, 2 * finest // 3, finest // 2, finest]
    return {
        lid: {
            "problem": "lid_driven_cavity", "reynolds": REYNOLDS, "lid": lid,
            "grids": grids if lid == "uniform" else grids[3:], "test_points": test, "extremes": list(EXTREMES),
            "scheme": "streamfunction, second order, Thom, Newton",
            "fields": "Richardson extrapolation on the test grid (x, y)",
        }
        for lid in LIDS
    }  # fmt: skip


def main(finest: int = 198, test: int = 100) -> None:
    """``test`` is the number of points per axis of the test grid."""
    results.fill("cavity_reference", configs(finest, test), make)


if __name__ == "__main__":
    runs.command_line(main)
