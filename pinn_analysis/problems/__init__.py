"""Partial differential equations as dictionaries of conditions, one per loss term.

A **condition** says ``operator(u)(x) = target(x)`` for the points that ``sample`` draws;
the residual of a network is the difference of the two sides, and the loss of the term
the mean square of its residuals.  A **problem** is a dictionary of conditions.

Readings of a sensor are a condition too (`data`), several at one place and noise included.  An
**unknown coefficient** is a further component of the field, constant in ``x``: it is one more
parameter ``c``, which adds its own column ``∂r/∂c`` to the Jacobian.  For ``u' + c u = 0`` that is
``u``, and the kernel of the residual is ``J Jᵀ + u uᵀ``:

>>> import jax, jax.numpy as jnp
>>> from jax.flatten_util import ravel_pytree
>>> from pinn_analysis.operators import partial
>>> from pinn_analysis.problems import Condition, Problem, box, data
>>> def apply(params, t):  # Any network for u; here a polynomial.
...     return jnp.stack([jnp.polyval(params["u"], t[0]), params["c"]])
>>> def u(field):
...     return lambda t: field(t)[0]
>>> def decay(field):
...     return lambda t: partial(0)(u(field))(t) + field(t)[1] * field(t)[0]
>>> t = jnp.linspace(0, 1, 9)[:, None]
>>> conditions = {
...     "readings": data(t, jnp.exp(-2 * t[:, 0]), operator=u),
...     "residual": Condition(decay, lambda t: jnp.zeros(()), box([0], [1])),
... }
>>> problem = Problem("decay", conditions, (jnp.zeros(1), jnp.ones(1)))
>>> points = problem.sample(jax.random.key(0), {"readings": 9, "residual": 20})
>>> params, unravel = ravel_pytree({"u": jnp.zeros(7), "c": jnp.array(0.0)})
>>> residuals = jax.jit(lambda params: problem.rows(apply, points)(unravel(params)))
>>> for _ in range(10):  # The Gauss-Newton method; `training.train` takes the same problem.
...     params -= jnp.linalg.lstsq(jax.jacobian(residuals)(params), residuals(params))[0]
>>> print(f"c = {unravel(params)['c']:.3f}")
c = 2.000

Shapes: ``n`` points, ``d`` inputs.  Points are ``(n, d)``, one array per condition; those of
`data` have further columns for what was measured.
"""

from pinn_analysis.problems._condition import Condition as Condition, Sampler as Sampler, as_data as as_data
from pinn_analysis.problems._core import (
    Apply as Apply,
    Points as Points,
    Problem as Problem,
    at_least_single as at_least_single,
    check as check,
    check_field as check_field,
    check_names as check_names,
    check_points as check_points,
    check_weights as check_weights,
)
from pinn_analysis.problems._data import data as data
from pinn_analysis.problems._evolution import (
    allen_cahn as allen_cahn,
    burgers as burgers,
    convection as convection,
)
from pinn_analysis.problems._flow import (
    divergence as divergence,
    lid_driven_cavity as lid_driven_cavity,
    momentum as momentum,
    velocity as velocity,
)
from pinn_analysis.problems._not_finite import (
    explain_not_finite as explain_not_finite,
    require_finite as require_finite,
)
from pinn_analysis.problems._sampling import (
    box as box,
    faces as faces,
    grid as grid,
    relative_l2_error as relative_l2_error,
    test_points as test_points,
)
from pinn_analysis.problems._scalar import (
    helmholtz_2d as helmholtz_2d,
    klein_gordon as klein_gordon,
    poisson_1d as poisson_1d,
    wave_1d as wave_1d,
)
