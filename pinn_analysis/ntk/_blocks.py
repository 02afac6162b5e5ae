"""A symmetric matrix whose rows belong to named loss terms."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float


@functools.partial(jax.tree_util.register_dataclass, data_fields=["matrix"], meta_fields=["names", "sizes"])
@dataclasses.dataclass(frozen=True)
class KernelBlocks:
    """A kernel with named blocks, symmetric, ``K["residual", "boundary"]`` being one.

    Attributes:
        matrix: the whole kernel, ``(n, n)``.
        names: the loss terms, in the order of the rows.
        sizes: number of rows of each term; ``n`` is their sum.
    """

    matrix: Float[Array, "n n"]
    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def slices(self) -> dict[str, slice]:
        """Where each term's rows are."""
        ends = np.cumsum(self.sizes).tolist()
        return {name: slice(end - n, end) for name, n, end in zip(self.names, self.sizes, ends, strict=True)}

    def __getitem__(self, pair: tuple[str, str]) -> Float[Array, "n_i n_j"]:
        where = self.slices()
        if not (isinstance(pair, tuple) and len(pair) == 2 and set(pair) <= set(where)):
            raise ValueError(
                f"A block is named by a pair of {list(self.names)}, "
                f"as in K[{self.names[-1]!r}, {self.names[0]!r}]; got {pair!r}."
            )
        return self.matrix[where[pair[0]], where[pair[1]]]

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


def mirror(rows: list[list[Array]]) -> Array:
    """The symmetric matrix of the blocks on and below its diagonal."""
    k = range(len(rows))
    matrix = jnp.block([[rows[i][j] if j <= i else rows[j][i].T for j in k] for i in k])
    return (matrix + matrix.T) / 2
