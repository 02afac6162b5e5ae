import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import networks
from pinn_analysis.operators import laplacian, partial
from pinn_analysis.problems import divergence, grid, lid_driven_cavity, momentum, velocity

REYNOLDS = 100
POINTS = jax.random.uniform(jax.random.key(3), (20, 2), minval=0.1, maxval=0.9)


def kovasznay(reynolds):
    """The exact flow behind a grid (Kovasznay 1948), as (ψ, p) and as (u, v, p)."""
    half = reynolds / 2
    a = half - np.sqrt(half**2 + 4 * np.pi**2)

    def pressure(x):
        return -jnp.exp(2 * a * x[0]) / 2

    def streamfunction(x):
        psi = x[1] - jnp.exp(a * x[0]) * jnp.sin(2 * jnp.pi * x[1]) / (2 * jnp.pi)
        return jnp.stack([psi, pressure(x)])

    def uvp(x):
        e = jnp.exp(a * x[0])
        u = 1 - e * jnp.cos(2 * jnp.pi * x[1])
        return jnp.stack([u, a / (2 * jnp.pi) * e * jnp.sin(2 * jnp.pi * x[1]), pressure(x)])

    return streamfunction, uvp


def poiseuille(reynolds):
    """Between walls y = 0 and 1, as (ψ, p) and as (u, v, p)."""

    def streamfunction(x):
        return jnp.stack([x[1] ** 2 / 2 - x[1] ** 3 / 3, -2 * x[0] / reynolds])

    return streamfunction, lambda x: jnp.stack([x[1] * (1 - x[1]), 0 * x[0], -2 * x[0] / reynolds])


@pytest.mark.parametrize("flow", [kovasznay, poiseuille])
@pytest.mark.parametrize("reynolds", [10, 100])
def test_exact_flows_have_no_residual_in_either_form(flow, reynolds):
    for field in flow(reynolds):
        assert jnp.abs(jax.vmap(momentum(reynolds)(field))(POINTS)).max() < 1e-10
        assert jnp.abs(jax.vmap(momentum(2 * reynolds)(field))(POINTS)).max() > 1e-4
    psi, uvp = flow(reynolds)
    np.testing.assert_allclose(jax.vmap(velocity(psi))(POINTS), jax.vmap(uvp)(POINTS)[:, :2], atol=1e-13)
    assert jnp.abs(jax.vmap(divergence(uvp))(POINTS)).max() < 1e-12


def test_the_forced_residual_of_a_polynomial_flow_is_that_computed_by_hand():
    # ψ = x² y³ and p = x y: u = 3x²y², v = -2xy³.
    def field(x):
        return jnp.stack([x[0] ** 2 * x[1] ** 3, x[0] * x[1]])

    def by_hand(x, y, nu=1 / REYNOLDS):
        u, v = 3 * x**2 * y**2, -2 * x * y**3
        first = u * 6 * x * y**2 + v * 6 * x**2 * y + y - nu * (6 * y**2 + 6 * x**2)
        return first, u * -2 * y**3 + v * -6 * x * y**2 + x - nu * (-12 * x * y)

    expected = np.stack(by_hand(*POINTS.T), -1)
    np.testing.assert_allclose(jax.vmap(momentum(REYNOLDS)(field))(POINTS), expected, rtol=1e-12)


@pytest.mark.parametrize("make", [networks.mlp, networks.modified_mlp])
def test_both_forms_agree_on_networks_and_with_derivatives_one_by_one(make):
    network = make((2, 20, 20, 2))
    psi = functools.partial(network.apply, network.init(jax.random.key(0)))

    def uvp(x):
        return jnp.concatenate([velocity(psi)(x), psi(x)[1:]])

    def one_by_one(x):
        (u, v, _), ux, uy = uvp(x), partial(0)(uvp)(x), partial(1)(uvp)(x)
        pressure = jnp.stack([ux[2], uy[2]])
        return u * ux[:2] + v * uy[:2] + pressure - laplacian(uvp)(x)[:2] / REYNOLDS

    expected = jax.vmap(one_by_one)(POINTS)
    for field in (psi, uvp):
        np.testing.assert_allclose(jax.vmap(momentum(REYNOLDS)(field))(POINTS), expected, rtol=1e-10, atol=1e-12)
    assert jnp.abs(jax.vmap(divergence(uvp))(POINTS)).max() < 1e-13


def test_the_momentum_operator_agrees_with_finite_differences():
    psi, _ = kovasznay(40)

    def field(x):  # Not a solution, or both sides would be zero.
        return psi(x) * jnp.cos(x[0])

    h = 1e-3
    e = np.eye(2) * h

    def w(x):
        return np.asarray(velocity(field)(jnp.asarray(x)))

    for x in np.asarray(POINTS[:5]):
        dx, dy = ((w(x + s) - w(x - s)) / (2 * h) for s in e)
        lap = sum(w(x + s) - 2 * w(x) + w(x - s) for s in e) / h**2
        dp = np.array([(field(x + s)[1] - field(x - s)[1]) / (2 * h) for s in e])
        expected = w(x)[0] * dx + w(x)[1] * dy + dp - lap / REYNOLDS
        np.testing.assert_allclose(momentum(REYNOLDS)(field)(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("formulation, outputs", [("streamfunction", 2), ("velocity", 3)])
def test_the_cavity_compiles_for_networks_and_has_the_conditions_it_names(formulation, outputs, key):
    problem = lid_driven_cavity(formulation=formulation)
    network = networks.mlp((2, 8, outputs))
    points = problem.sample(key, 8)

    def losses(params):
        return problem.losses(functools.partial(network.apply, params), points)

    gradient = jax.jit(jax.grad(lambda params: sum(losses(params).values())))(network.init(key))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    residuals = problem.residuals(functools.partial(network.apply, network.init(key)), points)
    sizes = {name: r.size for name, r in residuals.items()}
    assert sizes == {"boundary": 16, "momentum": 16} | ({"continuity": 8} if outputs == 3 else {})


def test_the_lid_moves_and_the_other_walls_rest():
    problem = lid_driven_cavity()
    x = grid(problem, 5)
    on_lid = x[:, 1] == 1
    target = jax.vmap(problem.conditions["boundary"].target)(x)
    assert jnp.array_equal(target[:, 0], on_lid.astype(float)) and not target[:, 1].any()


def test_flows_that_make_no_sense_are_an_error():
    with pytest.raises(ValueError, match="`formulation` must be"):
        lid_driven_cavity(formulation="vorticity")
    with pytest.raises(ValueError, match="`reynolds` must be positive, got -1"):
        lid_driven_cavity(reynolds=-1)
    with pytest.raises(ValueError, match=r"\(u, v, p\) or \(ψ, p\)"):
        momentum(1)(lambda x: x[0])(POINTS[0])


def taylor_green(reynolds):
    """Vortices that decay (Taylor, Green 1937), as (ψ, p) and as (u, v, p) of (x, y, t)."""

    def streamfunction(x):
        decay = jnp.exp(-2 * x[2] / reynolds)
        pressure = -(jnp.cos(2 * x[0]) + jnp.cos(2 * x[1])) / 4 * decay**2
        return jnp.stack([-jnp.cos(x[0]) * jnp.cos(x[1]) * decay, pressure])

    def uvp(x):
        decay = jnp.exp(-2 * x[2] / reynolds)
        speed = jnp.stack([jnp.cos(x[0]) * jnp.sin(x[1]), -jnp.sin(x[0]) * jnp.cos(x[1])]) * decay
        return jnp.append(speed, streamfunction(x)[1])

    return streamfunction, uvp


def unsteady(w, re):
    """As the message has it."""
    return lambda x: partial(2)(velocity(w))(x) + momentum(re)(lambda y: w(jnp.append(y, x[2])))(x[:2])


def test_unsteady_flow_is_refused_with_the_operator_that_the_docstring_writes_out():
    points = jax.random.uniform(jax.random.key(0), (20, 3), maxval=2.0)
    for field in taylor_green(10):
        with pytest.raises(ValueError, match=r"steady flow in two dimensions.*got 3 variables.*partial\(2\)"):
            momentum(10)(field)(points[0])
        assert jnp.abs(jax.vmap(unsteady(field, 10))(points)).max() < 1e-12
    psi, uvp = taylor_green(10)
    np.testing.assert_allclose(jax.vmap(velocity(psi))(points), jax.vmap(uvp)(points)[:, :2], atol=1e-14)
    assert jnp.abs(jax.vmap(divergence(uvp))(points)).max() < 1e-14
