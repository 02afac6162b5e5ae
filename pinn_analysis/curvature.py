"""Second derivatives of each loss term: products with Hessians, and Hessians as matrices.

With residuals ``r`` and their Jacobian ``J``, ``(n, p)``, a loss term ``L = mean(r²)`` has

    ∇²L = 2/n Jᵀ J + 2/n Σ_k r_k ∇²r_k ,

the **Gauss-Newton** part and the **rest**.  The nonzero eigenvalues of the first are ``2/n``
times those of the kernel block ``K = J Jᵀ`` of the term: positive, the same for every target.
The rest knows the target through ``r``, and is what can make eigenvalues negative.

`matvecs` gives products with vectors, for networks of any size; `spectra.extreme_eigenvalues` and
`spectra.density` take one of them.  `hessian` writes the matrix out: entries are ordered as
`jax.flatten_util.ravel_pytree` orders parameters.  Losses are the unweighted mean squares of
`Problem.losses`.

In float32 a product is wrong by about ``1e-6 max|λ|``: smaller eigenvalues are rounding.

Shapes: ``n`` rows of a term, ``p`` parameters.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis import spectra
from pinn_analysis._functions import as_pytree
from pinn_analysis.problems import (
    Apply,
    Condition,
    Problem,
    as_data,
    at_least_single,
    check,
    check_names,
    check_weights,
    require_finite,
)

PARTS = ("hessian", "gauss_newton", "rest")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["conditions", "apply", "params", "points", "weights"],
    meta_fields=["part"],
)
@dataclasses.dataclass(frozen=True)
class Matvec:
    """``v -> H v`` of a weighted sum of loss terms; ``v`` and ``H v`` are shaped like ``params``.

    A pytree: a function compiled for it is not compiled again for other parameters, points,
    weights or coefficients of the same shapes.
    """

    conditions: tuple[Condition, ...]
    apply: Apply
    params: PyTree
    points: tuple[Array, ...]
    weights: tuple[ArrayLike, ...]
    part: str

    def __call__(self, v: PyTree) -> PyTree:
        """``H v``."""
        return _product(self, v)

    def linear(self) -> Callable[[PyTree], PyTree]:
        """``v -> H v``; what does not depend on ``v`` is computed at once."""

        def residuals(params: PyTree) -> list[Array]:
            field = functools.partial(self.apply, params)
            pairs = zip(self.conditions, self.points, strict=True)
            return [jax.vmap(condition.residual(field))(x).ravel() for condition, x in pairs]

        def weighted(a: list[Array], b: list[Array]) -> Array:
            return sum(w * jnp.mean(s * t) for w, s, t in zip(self.weights, a, b, strict=True))

        def loss(params: PyTree) -> Array:
            r = residuals(params)
            return weighted(r, r)

        if self.part == "hessian":
            return jax.linearize(jax.grad(loss), self.params)[1]
        now, push = jax.linearize(residuals, self.params)
        if self.part == "rest":  # The loss whose second derivatives are `2/n Σ r_k ∇²r_k`, `r` held fast.
            return jax.linearize(jax.grad(lambda params: 2 * weighted(now, residuals(params))), self.params)[1]
        pull = jax.linear_transpose(push, self.params)
        scales = [2 * w / r.size for w, r in zip(self.weights, now, strict=True)]
        return lambda v: pull([s * t for s, t in zip(scales, push(v), strict=True)])[0]


class Matvecs(NamedTuple):
    """Products with Hessians.

    Attributes:
        terms: of each loss term.
        whole: of the weighted sum of those that are trained.
    """

    terms: dict[str, Matvec]
    whole: Matvec


def matvecs(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    *,
    part: str = "hessian",
    weights: Mapping[str, ArrayLike] | None = None,
) -> Matvecs:
    """Products with the Hessian of each loss term, and of the whole loss ``Σ_i λ_i L_i``.

    One product costs a few gradients, and their memory.  Numbers of half precision are taken as float32.

    Args:
        problem: gives the residuals.
        apply: ``apply(params, x)``, any function of any pytree of floating-point arrays.
        params: where the Hessian is taken.
        points: ``(n_i, d)`` for each condition.
        part: ``"hessian"``, or its ``"gauss_newton"`` part, or the ``"rest"``.
        weights: ``λ_i`` by term for the whole, 1 if not given; terms that are not trained have none,
            unless given.

    Raises:
        ValueError: as `ntk.empirical`; an unknown part; weights that do not fit, or are negative.
    """
    points, params = at_least_single((check(problem, apply, params, points), params))
    if part not in PARTS:
        raise ValueError(f"`part` must be one of {PARTS}, got {part!r}.")
    trained = {name: 1.0 for name, condition in problem.conditions.items() if condition.trained}
    weights = trained if weights is None else weights
    check_names(problem, dict.fromkeys(problem.conditions.keys() - trained.keys()) | dict(weights), "weights")
    check_weights(weights)

    conditions = {name: as_data(condition) for name, condition in problem.conditions.items()}

    def product(scales: Mapping[str, ArrayLike]) -> Matvec:
        chosen, x = zip(*((conditions[name], points[name]) for name in scales), strict=True)
        return Matvec(chosen, as_pytree(apply), params, x, tuple(scales.values()), part)

    whole = product({name: weights[name] for name in problem.conditions if name in weights})
    return Matvecs({name: product({name: 1.0}) for name in problem.conditions}, whole)


def hessian(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    *,
    part: str = "hessian",
    batch_size: int = 64,
) -> dict[str, Float[Array, "p p"]]:
    """The Hessian of each loss term as a matrix; that of a weighted loss is the weighted sum.

    ``p`` products and ``p²`` numbers per term, for networks of up to a few thousand parameters.
    Arguments are as of `matvecs`; ``batch_size`` columns at a time bound the memory beside the result.

    Raises:
        ValueError: as `matvecs`; a ``batch_size`` below 1; entries that are not finite, with term and point.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    products = matvecs(problem, apply, params, points, part=part).terms
    found = {name: _dense(product, batch_size) for name, product in products.items()}
    require_finite("Hessians are", found, problem, apply, params, points)
    return found


def eigenvalues(matrices: Mapping[str, Float[Array, "p p"]]) -> dict[str, Float[Array, " p"]]:
    """All eigenvalues, descending, of each of the matrices that `hessian` made.  O(p³)."""
    return {name: jnp.linalg.eigvalsh(matrix)[::-1] for name, matrix in matrices.items()}


def max_learning_rate(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None = None,
    *,
    key: Array,
    num_matvecs: int = 64,
) -> float:
    """Largest step of gradient descent that is stable here: ``2 / λ_max`` of ``Σ_i λ_i ∇²L_i``.

    `convergence.max_learning_rate` is that of the Gauss-Newton part.  ``inf`` if no direction curves up.

    Raises:
        ValueError: as `matvecs` and `spectra.extreme_eigenvalues`.
    """
    product = matvecs(problem, apply, params, points, weights=weights).whole
    largest = float(spectra.extreme_eigenvalues(product, product.params, key=key, num_matvecs=num_matvecs).largest)
    return 2 / largest if largest > 0 else float("inf")


@jax.jit
def _product(matvec: Matvec, v: PyTree) -> PyTree:
    with jax.default_matmul_precision("highest"):
        return matvec.linear()(v)


@functools.partial(jax.jit, static_argnums=1)
def _dense(matvec: Matvec, batch_size: int) -> Float[Array, "p p"]:
    flat, unravel = ravel_pytree(matvec.params)
    with jax.default_matmul_precision("highest"):
        linear = matvec.linear()

        def column(i: Array) -> Array:
            return ravel_pytree(linear(unravel(jnp.zeros_like(flat).at[i].set(1))))[0]

        matrix = jax.lax.map(column, jnp.arange(flat.size), batch_size=min(batch_size, flat.size))
    return (matrix + matrix.T) / 2
