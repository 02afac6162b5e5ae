"""Problems, and the check of a network against a problem.  Shapes: ``n`` points, ``d`` inputs."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis._functions import as_pytree
from pinn_analysis.operators import Field
from pinn_analysis.problems._condition import Condition, Sampler, check_functions, check_term

Apply = Callable[[PyTree, Array], Array]
Points = Mapping[str, ArrayLike | Sequence]  # One table of points for each condition.


class Problem(NamedTuple):
    """A PDE with its boundary and initial data, one `Condition` per loss term.

    Attributes:
        name: for messages and results.
        conditions: the loss terms by name, in the order of the rows of a kernel.
        domain: lower and upper corner of a box, each ``(d,)``: the domain, or what bounds it.
        solution: the exact solution, if known; it is taken at test points alone.
        test: where the error is measured (`test_points`): points ``(n, d)``, or a sampler
            ``(key, n) -> (n, d)``.  For a domain that is not its box: an L, a hole.
    """

    name: str
    conditions: dict[str, Condition]
    domain: tuple[Array, Array]
    solution: Field | None = None
    test: ArrayLike | Sampler | None = None

    def sample(self, key: Array, sizes: int | Mapping[str, int]) -> dict[str, Array]:
        """Random points for each condition, ``(n, d)`` each.

        Args:
            key: a JAX random key; each condition gets its own.
            sizes: number of points, one for all conditions or a dict by name.

        Raises:
            ValueError: ``sizes`` misses a condition, names an unknown one, or is below 1.
        """
        if not isinstance(sizes, Mapping):
            sizes = dict.fromkeys(self.conditions, sizes)
        check_names(self, sizes, "sizes")
        for name, n in sizes.items():
            if n < 1:
                raise ValueError(
                    f"`sizes` must be at least 1, got {n} for {name!r}; to drop a term, drop its condition."
                )
        keys = jax.random.split(key, len(self.conditions))
        return {
            name: condition.sample(k, sizes[name])
            for k, (name, condition) in zip(keys, self.conditions.items(), strict=True)
        }

    def residuals(self, field: Field, points: Points) -> dict[str, Array]:
        """``operator(field) - target`` at the points of each condition, ``(n,)`` each.

        A condition with ``m`` components gives ``n * m`` values, point by point.

        Raises:
            ValueError: points that do not fit (`check_points`); a field, an operator or a target
                that does not fit the others.
        """
        points = check_points(self, points)

        def values(name: str, condition: Condition) -> Array:
            try:
                return jax.vmap(condition.residual(field))(points[name]).ravel()
            except Exception:
                check_term(name, condition, field, _one_of(points[name]))  # Raises what is wrong, if it knows.
                raise

        return {name: values(name, condition) for name, condition in self.conditions.items()}

    def rows(self, apply: Apply, points: Points) -> Callable[[PyTree], Float[Array, " n"]]:
        """``params -> r``: the residuals of all terms in one vector, as a function of the parameters.

        Its Jacobian has the rows of the kernel, in the same order.
        """

        def residuals(params: PyTree) -> Float[Array, " n"]:
            return jnp.concatenate(list(self.residuals(functools.partial(apply, params), points).values()))

        return residuals

    def losses(self, field: Field, points: Points) -> dict[str, Array]:
        """Mean square of the residuals of each condition, without weights.

        Raises:
            ValueError: as `residuals`.
        """
        return {name: jnp.mean(r**2) for name, r in self.residuals(field, points).items()}

    def only(self, *names: str) -> "Problem":
        """The problem with these conditions alone, in the order given.

        Raises:
            ValueError: a name that is no condition.
        """
        self._check_known(names)
        return self._replace(conditions={name: self.conditions[name] for name in names})

    def replaced(self, **conditions: Condition) -> "Problem":
        """The problem with other conditions under the same names.

        Raises:
            ValueError: a name that is no condition.
        """
        self._check_known(conditions)
        return self._replace(conditions=self.conditions | conditions)

    def _check_known(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self.conditions]
        if unknown:
            raise ValueError(f"{self.name!r} has the conditions {list(self.conditions)}, not {unknown}.")


def check_names(problem: Problem, given: Mapping, what: str) -> None:
    """Raise `ValueError` unless ``given`` names exactly the conditions of ``problem``."""
    unknown, missing = set(given) - set(problem.conditions), set(problem.conditions) - set(given)
    if unknown or missing:
        raise ValueError(
            f"`{what}` must name the conditions of {problem.name!r}, {list(problem.conditions)}"
            + (f"; unknown: {sorted(unknown)}" if unknown else "")
            + (f"; missing: {sorted(missing)}" if missing else "")
            + "."
        )


def check_weights(weights: Mapping[str, ArrayLike], *, per_row: bool = False) -> None:
    """Raise `ValueError` for a weight that is no number, or, if known yet, negative or not finite."""
    for name, weight in weights.items():
        if np.ndim(weight) and not per_row:
            raise ValueError(
                f"Weights must be one number per term, got shape {np.shape(weight)} for {name!r}; `Condition.scaled` "
                "with a function of the point gives each point its own."
            )
        if not isinstance(weight, jax.core.Tracer) and not np.all(np.isfinite(weight) & (np.asarray(weight) >= 0)):
            raise ValueError(f"Weights must be finite and not negative, got {weight} for {name!r}.")


def check_points(problem: Problem, points: Points) -> dict[str, Array]:
    """The points as arrays of floats, in the order of the conditions; whole numbers and lists are converted.

    Raises:
        ValueError: points of a wrong name or shape, an empty set, complex ones or, if known yet, NaN; an
            operator or a target that is not a function.
    """
    if not problem.conditions:
        raise ValueError(f"{problem.name!r} has no conditions, or none that is trained; give it one.")
    check_names(problem, points, "points")
    for name, condition in problem.conditions.items():
        check_functions(name, condition)
    return {name: _as_points(name, points[name], problem) for name in problem.conditions}


def check_field(problem: Problem, field: Field, points: Points) -> dict[str, Array]:
    """The points as `check_points` returns them, once a field of this kind fits the problem: see `check`."""
    points = check_points(problem, points)
    for name, condition in problem.conditions.items():
        check_term(name, condition, field, _one_of(points[name]))
    return points


def _as_points(name: str, given: ArrayLike | Sequence, problem: Problem) -> Array:
    d, values = len(problem.domain[0]), problem.conditions[name].values
    try:
        x = as_floats(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Points of {name!r} must be numbers, in an array of shape (n, {d}): {error}") from error
    if x.ndim != 2 or x.shape[1] != d + values:
        measured = f", {d} inputs and {values} measured columns, as the condition's `sample` gives them"
        raise ValueError(
            f"Points of {name!r} must have shape (n, {d + values}){measured if values else ''}, got {x.shape}; "
            f"a single point is `x[None]`{', points on a line are `x[:, None]`' if d == 1 else ''}."
        )
    if len(x) == 0:
        raise ValueError(f"Points of {name!r} are empty; give at least one, or drop the condition.")
    if not is_finite(x):
        raise ValueError(f"Points of {name!r} contain NaN or infinity; draw them again or mask them out.")
    return x


def as_floats(x: ArrayLike | Sequence) -> Array:
    """``x`` as an array of floats of its own precision; whole numbers and lists get the default one."""
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        raise TypeError("complex numbers; give real and imaginary part as two columns.")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def at_least_single(arrays: PyTree) -> PyTree:
    """Arrays of half precision as float32, in which what is made of them can be summed; others as they are."""
    # Not by promotion, which users may have switched off.
    exact = lambda dtype: jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32
    dtype = lambda leaf: leaf.dtype if exact(leaf.dtype) else jnp.float32
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype(leaf)), arrays)


def check_params(params: PyTree) -> None:
    """Raise a `ValueError` unless all of ``params`` are finite arrays of real floats."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"Parameters must be a pytree of floating-point arrays; {params!r:.60} has none.")
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise ValueError(
                f"Parameters must be floating-point arrays, but params{name} is {leaf!r:.60}; keep the rest out of "
                "them (`equinox.partition`, `nnx.split(model, nnx.Param, ...)`, or a closure around `apply`), "
                "and complex ones as two real ones."
            )
    if not is_finite(params):
        bad = next(jax.tree_util.keystr(path) for path, leaf in leaves if not is_finite(leaf))
        raise ValueError(f"params{bad} contains NaN or infinity: the run that made them diverged.")


def is_finite(tree: PyTree) -> bool:
    """Whether all arrays are known to be finite, or not known yet; found on their device."""
    known = [leaf for leaf in jax.tree.leaves(tree) if not isinstance(leaf, jax.core.Tracer)]
    elsewhere = [leaf for leaf in known if isinstance(leaf, Array) and not _in_memory(leaf)]
    with jax.ensure_compile_time_eval():  # A constant of a function that is being traced is known.
        found = not elsewhere or bool(_all_finite(elsewhere))
    # By NumPy what it can read where it is: JAX would compile a program for every set of shapes.
    return found and all(np.isfinite(leaf).all() for leaf in known if not isinstance(leaf, Array) or _in_memory(leaf))


def _in_memory(x: Array) -> bool:
    return [device.platform for device in x.devices()] == ["cpu"]


@jax.jit
def _all_finite(arrays: list[ArrayLike]) -> Array:
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in arrays]))


def check(problem: Problem, apply: Apply, params: PyTree, points: Points) -> dict[str, Array]:
    """The points as arrays, in the order of the conditions, once network, parameters and points fit the problem.

    Shapes of the network, the operators and the targets are found without computing anything, and
    once: the same functions with parameters of the same shapes are not looked at again.

    Raises:
        ValueError: points that do not fit (`check_points`); parameters that are not floating-point or not
            finite; a network, an operator or a target that cannot be evaluated at one point, returns
            anything but one array of real numbers, or one of another shape than its other side.
    """
    points = check_points(problem, points)
    check_params(params)
    terms = tuple((name, condition.values, _one_of(points[name])) for name, condition in problem.conditions.items())
    functions = [(as_pytree(c.operator), as_pytree(c.target)) for c in problem.conditions.values()]
    leaves, treedef = jax.tree.flatten((functions, as_pytree(apply), params))
    shapes = tuple(_like(leaf) if hasattr(leaf, "dtype") else leaf for leaf in leaves)
    try:
        hash((treedef, shapes))
    except TypeError:  # A function that is not hashable: looked at each time.
        _check_terms.__wrapped__(terms, treedef, shapes)
    else:
        _check_terms(terms, treedef, shapes)
    return points


@functools.lru_cache(maxsize=1024)
def _check_terms(terms: tuple, treedef: Any, shapes: tuple) -> None:
    """`check_term` of every term, for arrays of which only the shapes are known."""
    abstract = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in shapes]

    def run(arrays: list[Array]) -> None:
        arrays = iter(arrays)
        leaves = [next(arrays) if known else leaf for known, leaf in zip(abstract, shapes, strict=True)]
        functions, apply, params = jax.tree.unflatten(treedef, leaves)
        field = functools.partial(apply, params)
        for (name, values, x), (operator, target) in zip(terms, functions, strict=True):
            check_term(name, Condition(operator, target, sample=None, values=values), field, x)

    jax.eval_shape(run, [leaf for leaf, known in zip(shapes, abstract, strict=True) if known])


def _like(x: Array | np.ndarray | np.generic) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _one_of(points: Array) -> jax.ShapeDtypeStruct:
    """One point, of which only shape and dtype matter."""
    return jax.ShapeDtypeStruct(points.shape[1:], points.dtype)
