"""A symmetric matrix whose rows belong to named loss terms, written out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.problems import Problem


class Rows:
    """Rows of named terms, one below the other: what all kernels have in common.

    Attributes:
        names: the loss terms, in the order of the rows.
        sizes: number of rows of each term; ``n`` is their sum.
        untrained: the terms that training does not take in (`Condition.trained`).
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    untrained: tuple[str, ...]

    def slices(self) -> dict[str, slice]:
        """Where each term's rows are."""
        ends = np.cumsum(self.sizes).tolist()
        return {name: slice(end - n, end) for name, n, end in zip(self.names, self.sizes, ends, strict=True)}

    def diagonal(self) -> Float[Array, " n"]:
        """``K_kk`` of every row, ``(n,)``."""
        raise NotImplementedError

    def split(self, vector: Float[Array, "... n"]) -> dict[str, Array]:
        """The parts of a vector over all rows (its last axis), by term."""
        return {name: vector[..., where] for name, where in self.slices().items()}

    def join(self, parts: Mapping[str, ArrayLike]) -> Float[Array, "... n"]:
        """The vector over all rows (its last axis) of its parts: the inverse of `split`."""
        got = {name: jnp.shape(part) for name, part in parts.items()}
        want = dict(zip(self.names, self.sizes, strict=True))
        if {name: shape[-1:] for name, shape in got.items()} != {name: (n,) for name, n in want.items()}:
            raise ValueError(
                f"Expected one vector per term, of lengths {want}, got shapes {got}; `problem.residuals` makes them."
            )
        return jnp.concatenate([jnp.asarray(parts[name]) for name in self.names], -1)

    def repeat(self, values: Mapping[str, ArrayLike]) -> Float[Array, " n"]:
        """The vector over all rows that has the same value in all rows of a term."""
        each = zip(self.names, self.sizes, strict=True)
        return jnp.concatenate([jnp.broadcast_to(jnp.asarray(values[name]), (n,)) for name, n in each])

    def traces(self) -> dict[str, Float[Array, ""]]:
        """``tr K_ii`` of each term."""
        return {name: part.sum() for name, part in self.split(self.diagonal()).items()}

    def check_pair(self, pair: tuple[str, str]) -> None:
        """Raise `ValueError` unless a block is named by ``pair``."""
        if not (isinstance(pair, tuple) and len(pair) == 2 and set(pair) <= set(self.names)):
            raise ValueError(
                f"A block is named by a pair of {list(self.names)}, "
                f"as in K[{self.names[-1]!r}, {self.names[0]!r}]; got {pair!r}."
            )


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["matrix"], meta_fields=["names", "sizes", "untrained"]
)
@dataclasses.dataclass(frozen=True)
class KernelBlocks(Rows):
    """A kernel with named blocks, symmetric, ``K["residual", "boundary"]`` being one.

    Attributes:
        matrix: the whole kernel, ``(n, n)``.
        names: the loss terms, in the order of the rows.
        sizes: number of rows of each term; ``n`` is their sum.
        untrained: the terms that training does not take in (`Condition.trained`).
    """

    matrix: Float[Array, "n n"]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    untrained: tuple[str, ...] = ()

    def __getitem__(self, pair: tuple[str, str]) -> Float[Array, "n_i n_j"]:
        self.check_pair(pair)
        where = self.slices()
        return self.matrix[where[pair[0]], where[pair[1]]]

    def linear(self) -> Callable[[Float[Array, " n"]], Float[Array, " n"]]:
        """``v -> K v``."""
        return self.mv

    def mv(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """``K v``."""
        return jnp.matmul(self.matrix, v, precision="highest")

    def diagonal(self) -> Float[Array, " n"]:
        """The entries ``K_kk``."""
        return jnp.diagonal(self.matrix)

    def dense(self) -> "KernelBlocks":
        """Itself."""
        return self

    def scaled(self, by: Mapping[str, ArrayLike]) -> "KernelBlocks":
        """``C K C``, ``C`` diagonal with a number per term: the kernel of residuals that many times as large."""
        scale = self.repeat(by).astype(self.matrix.dtype)
        return dataclasses.replace(self, matrix=scale[:, None] * self.matrix * scale)

    def draw(self, key: Array, count: int) -> dict[str, Float[Array, "count n_i"]]:
        """Gaussian vectors of mean zero with the kernel for covariance, by term, as residuals are."""
        values, vectors = jnp.linalg.eigh(self.matrix)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))  # A kernel of rank below `n` has no Cholesky factor.
        normal = jax.random.normal(key, (count, len(values)), self.matrix.dtype)
        return self.split(jnp.matmul(normal, root.T, precision="highest"))


def untrained(problem: Problem) -> tuple[str, ...]:
    """The terms that training does not take in."""
    return tuple(name for name, condition in problem.conditions.items() if not condition.trained)


def mirror(rows: list[list[Array]]) -> Array:
    """The symmetric matrix of the blocks on and below its diagonal."""
    k = range(len(rows))
    matrix = jnp.block([[rows[i][j] if j <= i else rows[j][i].T for j in k] for i in k])
    return (matrix + matrix.T) / 2
