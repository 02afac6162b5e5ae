"""Second derivatives of each loss term: Hessians, their extreme eigenvalues and densities.

With residuals ``r`` and their Jacobian ``J``, ``(n, p)``, a loss term ``L = mean(r²)`` has

    ∇²L = 2/n Jᵀ J + 2/n Σ_k r_k ∇²r_k ,

the **Gauss-Newton** part and the **rest**.  The nonzero eigenvalues of the first are ``2/n``
times those of the kernel block ``K = J Jᵀ`` of the term: positive, the same for every target.
The rest knows the target through ``r``, and is what can make eigenvalues negative.

`matvecs` gives products with vectors, for networks of any size; what needs no matrix
(`extreme_eigenvalues`, `density`) takes one of them, or any other symmetric linear function.
`hessian` writes the matrix out: entries are ordered as `jax.flatten_util.ravel_pytree` orders
parameters.  Losses are the unweighted mean squares of `Problem.losses`.

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
from matfree import decomp, stochtrace

from pinn_analysis.problems import Apply, Condition, Problem, check, check_names, check_weights

PARTS = ("hessian", "gauss_newton", "rest")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "points", "weights"],
    meta_fields=["conditions", "apply", "part"],
)
@dataclasses.dataclass(frozen=True)
class Matvec:
    """``v -> H v`` of a weighted sum of loss terms; ``v`` and ``H v`` are shaped like ``params``.

    A pytree: a jitted function of it is not compiled anew for other parameters.
    """

    conditions: tuple[Condition, ...]
    apply: Apply
    part: str
    params: PyTree
    points: tuple[Array, ...]
    weights: tuple[ArrayLike, ...]

    def __call__(self, v: PyTree) -> PyTree:
        """``H v``."""
        return _product(self, v)


class Extremes(NamedTuple):
    """Both ends of a spectrum.

    Attributes:
        smallest: Ritz value, not below the smallest eigenvalue.
        largest: Ritz value, not above the largest eigenvalue.
        errors: bounds on the distance of both to the nearest eigenvalue, rounding apart.
    """

    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    errors: Float[Array, "2"]


class Density(NamedTuple):
    """A spectrum as a sum of peaks, ``s`` samples of ``m`` each.

    ``counts[values > x].sum()`` is about the number of eigenvalues above ``x``.

    Attributes:
        values: where the peaks are, ``(s, m)``.
        counts: how many eigenvalues each stands for; the sum of all is ``p``.
    """

    values: Float[Array, "s m"]
    counts: Float[Array, "s m"]


def matvecs(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    *,
    part: str = "hessian",
    weights: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Matvec]:
    """Products with the Hessian of each loss term, and of ``Σ_i λ_i L_i`` as ``"all"``.

    One product costs a few gradients, and their memory.

    Args:
        problem: gives the residuals.
        apply: ``apply(params, x)``, any function of any pytree of floating-point arrays.
        params: where the Hessian is taken.
        points: ``(n_i, d)`` for each condition.
        part: ``"hessian"``, or its ``"gauss_newton"`` part, or the ``"rest"``.
        weights: ``λ_i`` by term, 1 if not given; of ``"all"`` alone.

    Raises:
        ValueError: as `ntk.empirical`; an unknown part; weights that do not fit, or are negative.
    """
    points = check(problem, apply, params, points)
    if part not in PARTS:
        raise ValueError(f"`part` must be one of {PARTS}, got {part!r}.")
    weights = dict.fromkeys(problem.conditions, 1.0) if weights is None else weights
    check_names(problem, weights, "weights")
    check_weights(weights)

    def product(scales: Mapping[str, ArrayLike]) -> Matvec:
        conditions = tuple(problem.conditions[name] for name in scales)
        x = tuple(points[name] for name in scales)
        return Matvec(conditions, apply, part, params, x, tuple(scales.values()))

    every = {name: weights[name] for name in problem.conditions}
    return {name: product({name: 1.0}) for name in every} | {"all": product(every)}


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

    ``p`` products and ``p²`` numbers a term, for networks of up to a few thousand parameters.
    Arguments are as of `matvecs`; ``batch_size`` columns at a time bound the memory beside the result.

    Raises:
        ValueError: as `matvecs`; a ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    products = matvecs(problem, apply, params, points, part=part)
    return {name: _dense(products[name], batch_size) for name in problem.conditions}


def eigenvalues(matrices: Mapping[str, Float[Array, "p p"]]) -> dict[str, Float[Array, " p"]]:
    """All eigenvalues, descending, of each of the matrices that `hessian` made.  O(p³)."""
    return {name: jnp.linalg.eigvalsh(matrix)[::-1] for name, matrix in matrices.items()}


def extreme_eigenvalues(
    matvec: Callable[[PyTree], PyTree], like: PyTree, *, key: Array, num_matvecs: int = 64
) -> Extremes:
    """Smallest and largest eigenvalue without the matrix, by Lanczos' method.

    Isolated eigenvalues converge first, so the largest one of a Hessian takes a few dozen
    products; the smallest may need more.  ``errors`` says how far it has come.

    Args:
        matvec: one of `matvecs`, or any symmetric linear function of pytrees, such as `ntk.matvec`.
        like: a pytree with the shapes and dtypes that ``matvec`` takes: the parameters.
        key: a random key, for the first vector.
        num_matvecs: products, at most; as many vectors of size ``p`` are kept.

    Raises:
        ValueError: ``num_matvecs`` below 1.
    """
    values, _, errors = _lanczos(matvec, like, key, num_matvecs, 1)
    return Extremes(values[0, 0], values[0, -1], errors[0, jnp.array([0, -1])])


def density(
    matvec: Callable[[PyTree], PyTree], like: PyTree, *, key: Array, num_matvecs: int = 64, samples: int = 8
) -> Density:
    """How many eigenvalues are where, without the matrix: stochastic Lanczos quadrature.

    Every sample is a Gauss quadrature of the spectrum, as a random vector sees it, which is
    right on average for all polynomials of degree below ``2 num_matvecs``.  Arguments are as of
    `extreme_eigenvalues`; ``samples`` is the number of random vectors, of ``num_matvecs`` products each.

    Raises:
        ValueError: ``num_matvecs`` or ``samples`` below 1.
    """
    values, shares, _ = _lanczos(matvec, like, key, num_matvecs, samples)
    p = sum(jnp.size(leaf) for leaf in jax.tree.leaves(like))
    return Density(values, shares * (p / samples))


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
        ValueError: as `matvecs` and `extreme_eigenvalues`.
    """
    product = matvecs(problem, apply, params, points, weights=weights)["all"]
    largest = float(extreme_eigenvalues(product, params, key=key, num_matvecs=num_matvecs).largest)
    return 2 / largest if largest > 0 else float("inf")


def _linear(matvec: Matvec) -> Callable[[PyTree], PyTree]:
    """The linear function of a `Matvec`; what does not depend on ``v`` is computed at once."""

    def residuals(params: PyTree) -> list[Array]:
        field = functools.partial(matvec.apply, params)
        return [jax.vmap(c.residual(field))(x).ravel() for c, x in zip(matvec.conditions, matvec.points, strict=True)]

    def weighted(a: list[Array], b: list[Array]) -> Array:
        return sum(w * jnp.mean(s * t) for w, s, t in zip(matvec.weights, a, b, strict=True))

    def loss(params: PyTree) -> Array:
        r = residuals(params)
        return weighted(r, r)

    if matvec.part == "hessian":
        return jax.linearize(jax.grad(loss), matvec.params)[1]
    now, push = jax.linearize(residuals, matvec.params)
    if matvec.part == "rest":  # The loss whose second derivatives are `2/n Σ r_k ∇²r_k`, `r` held fast.
        return jax.linearize(jax.grad(lambda params: 2 * weighted(now, residuals(params))), matvec.params)[1]
    pull = jax.linear_transpose(push, matvec.params)
    scales = [2 * w / r.size for w, r in zip(matvec.weights, now, strict=True)]
    return lambda v: pull([s * t for s, t in zip(scales, push(v), strict=True)])[0]


@jax.jit
def _product(matvec: Matvec, v: PyTree) -> PyTree:
    with jax.default_matmul_precision("highest"):
        return _linear(matvec)(v)


@functools.partial(jax.jit, static_argnums=1)
def _dense(matvec: Matvec, batch_size: int) -> Float[Array, "p p"]:
    flat, unravel = ravel_pytree(matvec.params)
    with jax.default_matmul_precision("highest"):
        linear = _linear(matvec)

        def column(i: Array) -> Array:
            return ravel_pytree(linear(unravel(jnp.zeros_like(flat).at[i].set(1))))[0]

        matrix = jax.lax.map(column, jnp.arange(flat.size), batch_size=min(batch_size, flat.size))
    return (matrix + matrix.T) / 2


def _lanczos(matvec: Callable, like: PyTree, key: Array, num_matvecs: int, samples: int) -> tuple[Array, Array, Array]:
    """Of each sample, ``(samples, num_matvecs)``: Ritz values, their shares of the first vector, error bounds."""
    if num_matvecs < 1 or samples < 1:
        raise ValueError(f"`num_matvecs` and `samples` must be at least 1, got {num_matvecs} and {samples}.")
    if jax.tree.leaves(matvec) == [matvec]:  # A function of the user's.
        matvec = jax.tree_util.Partial(matvec)
    return _ritz(matvec, stochtrace.sampler_signs(like, num=samples)(key), num_matvecs)


@functools.partial(jax.jit, static_argnums=2)
def _ritz(matvec: Callable, starts: PyTree, num_matvecs: int) -> tuple[Array, Array, Array]:
    def ritz(start: PyTree) -> tuple[Array, Array, Array]:
        flat = ravel_pytree(start)[0]
        # Arnoldi's iteration is Lanczos' with full reorthogonalisation.
        depth = min(num_matvecs, flat.size)
        _, h, residual, _ = decomp.hessenberg(depth, reortho="full", custom_vjp=False)(linear, start)
        diagonal = jnp.diagonal(h)
        off = jnp.append(jnp.diagonal(h, -1), jnp.linalg.norm(ravel_pytree(residual)[0]))
        # When the vectors span all that the first one can reach, the next is rounding, or 0/0.
        # What follows gets a value inside the spectrum, on which no share falls.
        scale = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal), jnp.abs(off)))
        over = jnp.cumsum(~(off > 10 * jnp.finfo(flat.dtype).eps * scale)) > 0
        diagonal = jnp.where(jnp.append(False, over[:-1]), diagonal[0], diagonal)
        off = jnp.where(over, 0, off)
        inner = off[:-1]
        values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(inner, 1) + jnp.diag(inner, -1))
        return values, vectors[0] ** 2, off[-1] * jnp.abs(vectors[-1])

    with jax.default_matmul_precision("highest"):
        linear = _linear(matvec) if isinstance(matvec, Matvec) else matvec
        return jax.lax.map(ritz, starts)
