"""Evolution equations that networks are known to fail at: a shock, an interface, fast transport."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pinn_analysis.operators import Field, Operator, identity, partial
from pinn_analysis.problems._condition import Condition
from pinn_analysis.problems._core import Problem
from pinn_analysis.problems._sampling import box, faces

HERMITE_NODES = 160


def burgers(nu: float | int = 0.01 / np.pi) -> Problem:
    """``u_t + u u_x = ν u_xx`` on ``(x, t) ∈ [-1, 1] × [0, 1]``, ``u(x, 0) = -sin πx``, ``u(±1, t) = 0``.

    With ``ν = 0.01/π`` (Basdevant et al., 1986; Raissi et al., 2019) a shock of width ``ν`` forms at ``x = 0``.  The
    solution is the integral of Cole and Hopf by Gauss-Hermite quadrature, right to 1e-13 for that ``ν`` and above.
    Conditions: ``"boundary"``, ``"initial"``, ``"residual"``, which is nonlinear.

    Raises:
        ValueError: ``nu`` is not positive.
    """
    if nu <= 0:
        raise ValueError(f"`nu` must be positive, got {nu}.")
    nodes, weights = np.polynomial.hermite.hermgauss(HERMITE_NODES)

    def solution(x: Float[Array, "2"]) -> Float[Array, ""]:
        y = x[0] - jnp.sqrt(4 * nu * x[1]) * nodes
        density = jax.nn.softmax(jnp.log(weights) - jnp.cos(jnp.pi * y) / (2 * jnp.pi * nu))
        return -density @ jnp.sin(jnp.pi * y)

    def operator(u: Field) -> Field:
        u_x, u_t, u_xx = partial(0)(u), partial(1)(u), partial(0, 0)(u)
        return lambda x: u_t(x) + u(x) * u_x(x) - nu * u_xx(x)

    low, high = jnp.array([-1.0, 0.0]), jnp.ones(2)
    conditions = {
        "boundary": Condition(identity, _zero, faces(low, high, (0, 0), (0, 1))),
        "initial": Condition(identity, lambda x: -jnp.sin(jnp.pi * x[0]), faces(low, high, (1, 0))),
        "residual": Condition(operator, _zero, box(low, high)),
    }
    return Problem("burgers", conditions, (low, high), solution)


def allen_cahn(diffusion: float | int = 1e-4, reaction: float | int = 5) -> Problem:
    """``u_t = D u_xx + R (u - u³)`` on ``[-1, 1] × [0, 1]``, periodic, ``u(x, 0) = x² cos πx`` (Raissi et al., 2019).

    The initial value has a kink where the period closes, so that the solution has a layer of width ``√(Dt)`` at ``x =
    ±1``.  No solution is known in closed form. Conditions: ``"periodic"`` (``u`` and ``u_x``), ``"initial"``,
    ``"residual"``, which is nonlinear.
    """

    def operator(u: Field) -> Field:
        u_t, u_xx = partial(1)(u), partial(0, 0)(u)
        return lambda x: u_t(x) - diffusion * u_xx(x) - reaction * (u(x) - u(x) ** 3)

    low, high = jnp.array([-1.0, 0.0]), jnp.ones(2)
    conditions = {
        "periodic": Condition(_periodic(2.0), lambda x: jnp.zeros(2, x.dtype), faces(low, high, (0, 0))),
        "initial": Condition(identity, lambda x: x[0] ** 2 * jnp.cos(jnp.pi * x[0]), faces(low, high, (1, 0))),
        "residual": Condition(operator, _zero, box(low, high)),
    }
    return Problem("allen_cahn", conditions, (low, high))


def convection(beta: float | int = 30) -> Problem:
    """``u_t + β u_x = 0`` on ``[0, 2π] × [0, 1]``, periodic, ``u(x, 0) = sin x`` (2109.01050, Sec. 3.1).

    Solution ``sin(x - βt)``.  Conditions: ``"periodic"``, ``"initial"``, ``"residual"``.
    """

    def operator(u: Field) -> Field:
        u_x, u_t = partial(0)(u), partial(1)(u)
        return lambda x: u_t(x) + beta * u_x(x)

    low, high = jnp.zeros(2), jnp.array([2 * jnp.pi, 1.0])
    conditions = {
        "periodic": Condition(_shift_difference(2 * np.pi), _zero, faces(low, high, (0, 0))),
        "initial": Condition(identity, lambda x: jnp.sin(x[0]), faces(low, high, (1, 0))),
        "residual": Condition(operator, _zero, box(low, high)),
    }
    return Problem("convection", conditions, (low, high), lambda x: jnp.sin(x[0] - beta * x[1]))


def _zero(x: Array) -> Array:
    return jnp.zeros((), x.dtype)


def _shift_difference(period: float) -> Operator:
    """``u(x) - u(x + period)`` along the first axis."""
    return lambda u: lambda x: u(x) - u(x.at[0].add(period))


def _periodic(period: float) -> Operator:
    """The same of ``u`` and ``u_x``."""
    difference = _shift_difference(period)

    def operator(u: Field) -> Field:
        of_value, of_slope = difference(u), difference(partial(0)(u))
        return lambda x: jnp.stack([of_value(x), of_slope(x)])

    return operator
