"""The kernel of a finite network: what multiplies vectors, and its matrix, traces and blocks."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis._functions import as_pytree
from pinn_analysis.ntk import _devices, _grams, _matrix, _rows, _sharded
from pinn_analysis.ntk._blocks import KernelBlocks, untrained
from pinn_analysis.ntk._rows import JacobianRows
from pinn_analysis.problems import Apply, Problem, at_least_single, check
from pinn_analysis.problems._core import is_finite


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["operators", "apply", "params", "points"],
    meta_fields=["names", "sizes", "untrained", "batch_size", "mesh"],
)
@dataclasses.dataclass(frozen=True)
class KernelOperator(JacobianRows):
    """``K = J Jᵀ`` of a finite network, nothing of it formed; made by `operator`.

    A pytree: a function compiled for it is not compiled again for other parameters, points or
    coefficients of the same shapes.
    """

    def linear(self) -> Callable[[Float[Array, " n"]], Float[Array, " n"]]:
        """``v -> K v``, linearised once where memory allows: for many products within one compiled function."""
        with jax.default_matmul_precision("highest"):
            pull, push = _rows.passes(self) if self.mesh is None else _sharded.passes(self)

        def product(v: Float[Array, " n"]) -> Float[Array, " n"]:
            with jax.default_matmul_precision("highest"):
                return push(pull(v))

        return product

    def mv(self, v: ArrayLike) -> Float[Array, " n"]:
        """``K v``, one reverse and one forward derivative: O(n p) time, memory O(n + p + batch w).

        ``w`` is what one point keeps between the two, some ten numbers per unit of the network.  By default the
        points of a term are taken together while what they keep fits into 256 MiB (read off the traced program), and
        in batches of so many beyond; then each batch is linearised anew, the work of 6 evaluations of the rows per
        product instead of 4.

        Raises:
            ValueError: a vector of another length, or complex; a row that is not finite.
        """
        v = jnp.asarray(v)
        if v.shape != (sum(self.sizes),) or jnp.iscomplexobj(v):
            raise ValueError(
                f"Expected a real vector over the rows, of shape ({sum(self.sizes)},), got {v.dtype} {v.shape}; "
                "`jax.vmap` of `mv` takes several, and a complex one is two, its real and its imaginary part."
            )
        product = _product(self, v)
        if not is_finite(product):
            self.diagonal()  # Raises what is wrong, unless it is the vector.
        return product

    def only(self, *names: str) -> "KernelOperator":
        """The rows of these terms, in the order given."""
        where = [self.names.index(name) for name in names]
        return dataclasses.replace(
            self,
            operators=tuple(self.operators[i] for i in where),
            points=tuple(self.points[i] for i in where),
            names=names,
            sizes=tuple(self.sizes[i] for i in where),
            untrained=tuple(name for name in self.untrained if name in names),
        )

    def diagonal(self) -> Float[Array, " n"]:
        """The entries ``K_kk``, squared norms of the rows: O(n p) time, and the memory of 32 rows.

        For wide networks less than a training step on the same points, and the rows of wide layers are not formed.

        Raises:
            ValueError: an entry is not finite.
        """
        parts = []
        for term in (self.only(name) for name in self.names):
            alone = self.mesh is None
            parts.append(_grams.diagonal(term) if alone else _sharded.diagonal(term, _grams.diagonal))
        diagonal = jnp.concatenate(parts)
        self._check_finite(diagonal)
        return diagonal

    def __getitem__(self, pair: tuple[str, str]) -> Float[Array, "n_i n_j"]:
        """The block ``K_ij``, without the others."""
        self.check_pair(pair)
        i, j = (self.only(name) for name in pair)
        return i.dense().matrix if pair[0] == pair[1] else i.cross(j)

    def cross(
        self, other: "KernelOperator", *, method: str = "auto", batch_size: int | None = None
    ) -> Float[Array, "n m"]:
        """``J J'ᵀ`` with the rows ``J'`` of another operator: of other points, other terms, other parameters.

        Its blocks are where ``self.slices()`` and ``other.slices()`` say.  Options are as of `dense`.

        Raises:
            ValueError: as `dense`, of either side.
        """
        matrix = _matrix.multiplied_out(self, other, method, batch_size)
        if not is_finite(matrix):
            self.diagonal(), other.diagonal()  # One of them raises what is wrong.
        return matrix

    def dense(self, *, method: str = "auto", batch_size: int | None = None) -> KernelBlocks:
        """The kernel as a matrix; options are as of `empirical`.

        From 128 MiB on it is made in tiles: memory is that of the matrix and of what a tile needs, at most a quarter
        of the machine's.

        Raises:
            ValueError: an unknown method; a ``batch_size`` below 1; a matrix that memory cannot hold;
                an entry of it is not finite.
        """
        matrix = _matrix.multiplied_out(self, None, method, batch_size)
        self._check_finite(jnp.diagonal(matrix))
        return KernelBlocks(matrix, self.names, self.sizes, self.untrained)

    def _check_finite(self, diagonal: Float[Array, " n"]) -> None:
        if is_finite(diagonal):
            return
        for name, part, x in zip(self.names, self.split(diagonal).values(), self.points, strict=True):
            if not jnp.isfinite(part).all():
                row = int(jnp.argmin(jnp.isfinite(part)))
                raise ValueError(
                    f"The kernel is not finite: {int((~jnp.isfinite(part)).sum())} of the {len(part)} rows of {name!r} "
                    f"are not, first at the point {x[row * len(x) // len(part)].tolist()}.  There the operator or the "
                    "network has no derivative with respect to the parameters (1/0, the root of 0 or less), or it "
                    "overflows: move the point, or mend the function there."
                )


def operator(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    *,
    batch_size: int | None = None,
) -> KernelOperator:
    """The kernel ``J Jᵀ`` of a finite network at ``params``, nothing of it formed (NTK paper, Lemma 3.1).

    It multiplies vectors, gives diagonal and traces, single blocks and blocks against other points,
    and the whole as a matrix.  Numbers of half precision are taken as float32.

    Args:
        problem: its operators give the rows; targets do not matter.
        apply: ``apply(params, x)``, any function of any pytree of floating-point arrays.
        params: the parameters that the rows are derivatives with respect to.
        points: ``(n_i, d)`` for each condition; over several devices (`shard`), they divide the rows among these.
        batch_size: rows of a term at a time, in products, diagonal, and blocks; by default what a bounded
            workspace holds (`KernelOperator.mv`), of the diagonal 32.

    Raises:
        ValueError: see `problems.check`; a ``batch_size`` below 1.
    """
    _matrix.check_batch_size(batch_size)
    checked = check(problem, apply, params, points)
    names = tuple(problem.conditions)
    operators = tuple(as_pytree(problem.conditions[name].operator) for name in names)
    params, x = at_least_single((params, tuple(checked[name] for name in names)))
    apply, mesh = as_pytree(apply), _devices.mesh_of(x)
    if mesh:
        operators, apply, params, x = _devices.replicated((operators, apply, params, x), mesh)
    sizes = tuple(len(y) * _rows.components(o, apply, params, y) for o, y in zip(operators, x, strict=True))
    return KernelOperator(operators, apply, params, x, names, sizes, untrained(problem), batch_size, mesh)


def empirical(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    *,
    method: str = "auto",
    batch_size: int | None = None,
) -> KernelBlocks:
    """The matrix of `operator`, all blocks, with the same arguments.

    Args:
        problem: see `operator`, as for the next three.
        apply: the network.
        params: its parameters.
        points: ``(n_i, d)`` for each condition.
        method: ``"jacobian"`` multiplies out the Jacobian: O(n p) memory, O(n² p) time.
            ``"structured"`` multiplies the factors of its rows, wherever a matrix among the
            parameters only multiplies vectors, as in a dense layer: O(n² w) for a layer of
            width ``w``, without its part of the Jacobian; other parameters as before.
            ``"auto"`` takes for each matrix what is less work, by the formula in ``ntk/_grams.py``.
        batch_size: rows at a time, by default as many as memory holds, ``2 · batch_size · p``
            numbers beside the kernel; the Jacobian is computed anew ``n / batch_size`` times.

    Raises:
        ValueError: see `problems.check` and `KernelOperator.dense`.
    """
    return operator(problem, apply, params, points).dense(method=method, batch_size=batch_size)


def traces(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """``tr K_ii`` of each term, as of `operator`; traceable, so it can stand in a training loop.

    Raises:
        ValueError: see `problems.check` and `KernelOperator.diagonal`.
    """
    return operator(problem, apply, params, points).traces()


def row_counts(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> dict[str, int]:
    """Rows that each term has in the kernel: its points times the components of its operator."""
    kernel = operator(problem, apply, params, points)
    return dict(zip(kernel.names, kernel.sizes, strict=True))


@jax.jit
def _product(kernel: KernelOperator, v: Float[Array, " n"]) -> Float[Array, " n"]:
    return kernel.linear()(v)
