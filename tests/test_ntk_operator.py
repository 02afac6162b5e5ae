"""The kernel of finite networks against ``J Jᵀ``, built row by row from `Problem.residuals`."""

import dataclasses
import functools
import itertools

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from pinn_analysis import ntk
from pinn_analysis.networks import mlp
from pinn_analysis.operators import laplacian, partial
from pinn_analysis.problems import Condition, Problem, helmholtz_2d, wave_1d

ROUNDING = 1e-12


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1, param_dtype=float)(jnp.tanh(linen.Dense(8, param_dtype=float)(x)))


class Nnx(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(2, 8, param_dtype=float, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(8, 1, param_dtype=float, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))[0]


def plain():
    network = mlp((2, 8, 1), bias_std=0.5)
    return network.apply, network.init(jax.random.key(0))


def flax_linen():
    model = Linen()
    return model.apply, model.init(jax.random.key(0), jnp.ones(2))  # Values of shape (1,), as they come.


def flax_nnx():
    graph, params = nnx.split(Nnx())
    return lambda params, x: nnx.merge(graph, params)(x), params


def equinox():
    model = eqx.nn.MLP(2, "scalar", 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, x: eqx.combine(params, static)(x), params


def jacobian(problem, apply, params, points):
    """Of all residuals with respect to all parameters: targets drop out."""
    flat, unravel = ravel_pytree(params)

    def residuals(flat):
        r = problem.residuals(functools.partial(apply, unravel(flat)), points)
        return jnp.concatenate([r[name] for name in problem.conditions])

    return jax.jit(jax.jacrev(residuals))(flat)


def error(matrix, exact):
    return float(jnp.abs(matrix - exact).max() / jnp.abs(exact).max())


@pytest.fixture(scope="module")
def case():
    """A problem with four terms, a network, and the Jacobian."""
    apply, params = plain()
    problem = wave_1d()
    points = problem.sample(jax.random.key(1), {"boundary": 3, "initial": 2, "initial_velocity": 4, "residual": 5})
    return problem, apply, params, points, jacobian(problem, apply, params, points)


@pytest.mark.parametrize("model", [plain, flax_linen, flax_nnx, equinox])
def test_the_kernel_is_the_product_of_jacobians_for_any_model(model):
    problem, (apply, params) = helmholtz_2d(), model()
    points = problem.sample(jax.random.key(1), {"boundary": 3, "residual": 4})
    j = jacobian(problem, apply, params, points)
    kernel = ntk.empirical(problem, apply, params, points)
    assert (kernel.names, kernel.sizes) == (("boundary", "residual"), (3, 4))
    rows = {"boundary": j[:3], "residual": j[3:]}
    for a, b in itertools.product(rows, rows):
        assert error(kernel[a, b], rows[a] @ rows[b].T) <= ROUNDING


@pytest.mark.parametrize(
    "options",
    [
        {"method": "jacobian"},
        {"method": "structured"},
        {"batch_size": 2},  # Divides some sizes, and not others.
        {"batch_size": 3, "method": "structured"},
    ],
    ids=str,
)
def test_all_methods_agree(case, options):
    problem, apply, params, points, j = case
    if options != {"method": "jacobian"}:  # The others compile for long; two different operators will do.
        conditions = {name: problem.conditions[name] for name in ("initial", "initial_velocity")}
        problem, points = problem._replace(conditions=conditions), {name: points[name] for name in conditions}
        j = j[3:9]
    kernel = ntk.empirical(problem, apply, params, points, **options)
    assert kernel.sizes == tuple(len(x) for x in points.values())
    assert error(kernel.matrix, j @ j.T) <= ROUNDING
    assert jnp.array_equal(kernel.matrix, kernel.matrix.T)


def test_wide_layers_are_multiplied_by_their_factors_and_agree(monkeypatch):
    problem, network = helmholtz_2d(), mlp((2, 400, 300, 1))
    problem = problem._replace(conditions={"boundary": problem.conditions["boundary"]})
    params, points = network.init(jax.random.key(0)), problem.sample(jax.random.key(1), 3)
    dense = ntk.empirical(problem, network.apply, params, points, method="jacobian").matrix
    monkeypatch.setattr(ntk._rows, "jacobian_gram", None)
    assert error(ntk.empirical(problem, network.apply, params, points).matrix, dense) <= ROUNDING


def test_traces_of_wide_networks_form_no_row_and_agree(monkeypatch):
    network, x = mlp((2, 400, 300, 2)), jnp.array([[0.1, 0.2], [0.3, -0.4], [0.5, 0.6]])
    both = lambda u: lambda x: jnp.stack([laplacian(u)(x)[0], u(x)[1]])  # Two components per point.
    condition = Condition(both, lambda x: jnp.zeros(2), lambda key, n: x)
    problem = helmholtz_2d()._replace(conditions={"both": condition})
    params = network.init(jax.random.key(0))
    dense = ntk.empirical(problem, network.apply, params, {"both": x}, method="jacobian").matrix
    monkeypatch.setattr(ntk._rows, "jacobian_diagonal", None)
    traced = jax.jit(lambda params: ntk.traces(problem, network.apply, params, {"both": x})["both"])(params)
    np.testing.assert_allclose(traced, jnp.trace(dense), rtol=ROUNDING)
    np.testing.assert_allclose(
        ntk.traces(problem, network.apply, params, {"both": x})["both"], jnp.trace(dense), rtol=ROUNDING
    )


def test_traces_are_sums_of_the_diagonal(case):
    problem, apply, params, points, j = case
    norms = jnp.split(jnp.sum(j**2, 1), [3, 5, 9])
    traces = ntk.traces(problem, apply, params, points)
    for name, norm in zip(problem.conditions, norms, strict=True):
        np.testing.assert_allclose(traces[name], norm.sum(), rtol=ROUNDING)
    compiled = jax.jit(lambda params: ntk.traces(problem, apply, params, points))(params)
    np.testing.assert_allclose(compiled["residual"], traces["residual"], rtol=ROUNDING)


def test_the_operator_multiplies_and_has_the_diagonal_and_the_blocks_of_the_kernel(case):
    problem, apply, params, points, j = case
    kernel, v = ntk.operator(problem, apply, params, points), jax.random.normal(jax.random.key(2), (14,))
    exact = j @ j.T
    assert (kernel.names, kernel.sizes) == (tuple(problem.conditions), (3, 2, 4, 5))
    for product in (kernel.mv(v), kernel.linear()(v)):
        assert error(product, exact @ v) <= ROUNDING
    assert error(kernel.diagonal(), jnp.diag(exact)) <= ROUNDING
    where = kernel.slices()
    for a, b in (("initial", "initial"), ("initial", "residual"), ("residual", "initial")):
        assert error(kernel[a, b], exact[where[a], where[b]]) <= ROUNDING
    with pytest.raises(ValueError, match="A block is named by a pair"):
        kernel["initial", "u"]
    for bad in (v[:-1], jnp.stack([v, v], 1), 1j * v):
        with pytest.raises(ValueError, match=r"real vector over the rows, of shape \(14,\)"):
            kernel.mv(bad)


@pytest.mark.parametrize("rows", [1, 3, 99], ids=["one row", "dividing some terms", "more than there are"])
def test_products_and_diagonals_in_batches_are_those_of_the_whole(case, rows):
    problem, apply, params, points, j = case
    kernel = ntk.operator(problem, apply, params, points, batch_size=rows)
    v = jax.random.normal(jax.random.key(2), (2, 14))
    assert error(jax.vmap(kernel.mv)(v), v @ j @ j.T) <= ROUNDING
    assert error(kernel.diagonal(), jnp.sum(j**2, 1)) <= ROUNDING
    assert error(kernel.only("initial").dense().matrix, j[3:5] @ j[3:5].T) <= ROUNDING
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        ntk.operator(problem, apply, params, points, batch_size=0)


def test_batches_take_vectors_single_points_and_parameters_of_mixed_precision():
    params = {"a": jnp.array([0.3, -0.7], jnp.float32), "b": jnp.array([[0.2, 0.5], [1.1, -0.4]])}
    apply = lambda params, x: jnp.sin(params["b"] @ x) * params["a"]  # No layer is dense.
    vector = lambda u: lambda x: 2 * u(x)
    problem = Problem(
        "vectors",
        {
            "u": Condition(vector, lambda x: jnp.zeros(2), box()),
            "one": Condition(lambda u: lambda x: u(x)[0], lambda x: 0.0, box()),
        },
        value_problem().domain,
    )
    points = {"u": jax.random.uniform(jax.random.key(0), (5, 2)), "one": jnp.array([[0.1, 0.2]])}
    j = jacobian(problem, apply, jax.tree.map(lambda leaf: leaf.astype(float), params), points)
    v = jax.random.normal(jax.random.key(2), (11,))
    for rows in (1, 4, None):
        kernel = ntk.operator(problem, apply, params, points, batch_size=rows)
        assert error(kernel.mv(v), j @ j.T @ v) <= 1e-6
        assert error(kernel.dense().matrix, j @ j.T) <= 1e-6
    with pytest.raises(ValueError):
        ntk.operator(problem, apply, params, points | {"one": jnp.zeros((0, 2))})


def test_batches_choose_themselves_so_that_the_memory_of_a_product_is_bounded(monkeypatch):
    """Beside the vector, the points and the parameters, what XLA says it needs does not grow with the rows."""
    apply, params = plain()
    problem, needed = value_problem(), []
    monkeypatch.setattr(ntk._rows, "WORKSPACE", 100_000)
    for n in (1_000, 10_000):
        kernel = ntk.operator(problem, apply, params, problem.sample(jax.random.key(1), n))
        multiply = jax.jit(lambda points, v, kernel=kernel: dataclasses.replace(kernel, points=points).mv(v))
        program = multiply.lower(kernel.points, jnp.ones(n)).compile()
        needed.append(program.memory_analysis().temp_size_in_bytes - 8 * 4 * n)  # Vector, padded, points in batches.
    assert needed[1] < 1.5 * needed[0] < 1.5 * 500_000, needed
    v = jax.random.normal(jax.random.key(2), (n,))
    rows = problem.rows(apply, {"u": kernel.points[0]})
    exact = jax.jvp(rows, (params,), jax.vjp(rows, params)[1](v))[1]
    assert error(kernel.mv(v), exact) <= ROUNDING


def test_rectangles_against_other_points_other_terms_and_other_parameters_form_no_square(case, monkeypatch):
    problem, apply, params, points, j = case
    kernel = ntk.operator(problem, apply, params, points)
    few = problem._replace(conditions={name: problem.conditions[name] for name in ("residual", "initial")})
    elsewhere = few.sample(jax.random.key(5), {"residual": 2, "initial": 3})
    monkeypatch.setattr(ntk._matrix, "_symmetric", None)
    for other in (params, jax.tree.map(lambda leaf: 1.1 * leaf, params)):
        right = ntk.operator(few, apply, other, elsewhere)
        exact = j @ jacobian(few, apply, other, elsewhere).T
        for options in {}, {"batch_size": 2}:
            assert error(kernel.cross(right, **options), exact) <= ROUNDING


def test_another_coefficient_other_parameters_and_other_points_compile_nothing():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Reaction:
        rate: jax.Array

        def __call__(self, u):
            return lambda x: laplacian(u)(x) + self.rate * u(x)

    apply, params = plain()
    compiled, counts = (ntk._grams.gram, ntk._grams.diagonal, ntk._operator._product), []
    for rate in (1.0, 2.0, 3.0):
        condition = Condition(Reaction(jnp.asarray(rate)), lambda x, rate=rate: rate * x[0], box())
        problem = Problem("reaction", {"r": condition}, (jnp.zeros(2), jnp.ones(2)))
        points = problem.sample(jax.random.key(int(rate)), 4)
        moved = jax.tree.map(lambda leaf, rate=rate: rate * leaf, params)
        kernel, j = ntk.operator(problem, apply, moved, points), jacobian(problem, apply, moved, points)
        assert error(kernel.dense().matrix, j @ j.T) <= ROUNDING
        assert error(kernel.mv(jnp.ones(4)), j @ j.T @ jnp.ones(4)) <= ROUNDING
        kernel.traces()
        counts.append([function._cache_size() for function in compiled])
    assert counts[0] == counts[-1]


def box():
    return lambda key, n: jax.random.uniform(key, (n, 2))


def value_problem(target_shape=()):
    conditions = {"u": Condition(lambda u: u, lambda x: jnp.zeros(target_shape), box())}
    return Problem("values", conditions, (jnp.zeros(2), jnp.ones(2)))


def halves(params, x):
    gate, value = jnp.split(jnp.tanh(x @ params["in"]) @ params["w"], 2)
    return jnp.tanh(gate) @ value


def looped(params, x):
    layer = lambda h, _: (jnp.tanh(h @ params["w"]), None)
    return jax.lax.scan(layer, jnp.tanh(x @ params["in"]), length=2)[0].sum()


def looked_up(params, x):
    return params["w"][jnp.array([0, 5, 7])] @ jnp.tanh(x @ params["in"]) @ jnp.arange(3.0)


@pytest.mark.parametrize("apply", [halves, looped, looked_up])
def test_wide_matrices_that_are_no_layers_have_their_rows_formed(apply):
    keys = jax.random.split(jax.random.key(0))
    params = {"in": jax.random.normal(keys[0], (2, 320)), "w": jax.random.normal(keys[1], (320, 320)) / 18}
    problem = value_problem()
    points = problem.sample(jax.random.key(1), 3)
    j = jacobian(problem, apply, params, points)
    assert error(ntk.empirical(problem, apply, params, points).matrix, j @ j.T) <= ROUNDING
    np.testing.assert_allclose(ntk.traces(problem, apply, params, points)["u"], (j**2).sum(), rtol=ROUNDING)


def test_two_hundred_outputs_are_mapped_over(monkeypatch):
    params = jax.random.normal(jax.random.key(0), (2, 200))
    apply, problem = lambda params, x: jnp.tanh(x @ params), value_problem((200,))
    points = problem.sample(jax.random.key(1), 2)
    kernel = ntk.operator(problem, apply, params, points)
    assert kernel.sizes == (400,)
    slope = 1 - np.tanh(points["u"] @ params) ** 2  # The outputs share no parameter.
    exact = np.einsum("iq,jq,ij,qr->iqjr", slope, slope, points["u"] @ points["u"].T, np.eye(200)).reshape(400, 400)
    for options in {}, {"batch_size": 200}:
        assert error(kernel.dense(**options).matrix, exact) <= ROUNDING
    assert error(kernel.diagonal(), np.diag(exact)) <= ROUNDING
    assert len(str(jax.make_jaxpr(ntk._rows.jacobian_diagonal)(kernel)).splitlines()) < 150  # Not one per component.


def test_kernels_of_half_precision_are_summed_in_float32():
    apply, params = plain()
    problem = value_problem()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, problem.sample(jax.random.key(1), 40)))
    exact = ntk.empirical(problem, apply, *jax.tree.map(lambda leaf: leaf.astype(float), half))
    kernel = ntk.operator(problem, apply, *half)
    for found, of in (
        (kernel.dense().matrix, exact.matrix),
        (kernel.diagonal(), exact.diagonal()),
        (kernel.mv(jnp.ones(40, jnp.bfloat16)), exact.mv(jnp.ones(40))),
    ):
        assert found.dtype == jnp.float32
        assert error(found, of) <= 1e-5


def test_a_matrix_too_large_for_memory_is_refused_and_the_operator_multiplies(monkeypatch):
    apply, params = plain()
    problem = value_problem()
    kernel = ntk.operator(problem, apply, params, {"u": jnp.ones((500, 2))})
    monkeypatch.setattr(ntk._matrix, "_memory", lambda: 3_000_000)
    with pytest.raises(ValueError, match=r"500 x 500 rows takes 0.002 GB.*of 0.003 GB.  `ntk.operator` gives"):
        kernel.dense()
    assert kernel.mv(jnp.ones(500)).shape == (500,)
    few = ntk.operator(problem, apply, params, problem.sample(jax.random.key(1), 50))
    monkeypatch.setattr(ntk._matrix, "_memory", lambda: 45_000)  # The matrix, and 170 numbers of each of 33 rows.
    monkeypatch.setattr(ntk._grams, "gram", counted := Counted(ntk._grams.gram))
    j = jacobian(problem, apply, params, {"u": few.points[0]})
    assert error(few.dense().matrix, j @ j.T) <= ROUNDING
    assert counted.calls > 1  # In batches.


def test_a_large_matrix_is_made_in_tiles_in_its_place(case, monkeypatch):
    """Beside the matrix, nothing of its size is alive when it is finished, or while a tile is written."""
    problem, apply, params, points, j = case
    kernel, exact = ntk.operator(problem, apply, params, points), j @ j.T
    alive, written = [], ntk._matrix._written

    def watched(matrix, *args):
        after = written(matrix, *args)
        alive.append(matrix.is_deleted())
        return after

    monkeypatch.setattr(ntk._matrix, "SMALL", 100)
    monkeypatch.setattr(ntk._matrix, "_written", watched)
    monkeypatch.setattr(ntk._grams, "MEANWHILE", 10**8)
    monkeypatch.setattr(ntk._matrix, "_memory", lambda: 8 * 8 * 10**8 * 16)  # Tiles of 4 rows.
    assert error(kernel.dense().matrix, exact) <= ROUNDING
    assert error(kernel.cross(kernel), exact) <= ROUNDING
    assert len(alive) > 20 and all(alive)


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def test_a_row_that_is_not_finite_is_named_with_its_point():
    root = lambda u: lambda x: jnp.sqrt(x[0]) * u(x)
    problem = Problem(
        "root",
        {"r": Condition(root, lambda x: 0.0, box()), "u": value_problem().conditions["u"]},
        value_problem().domain,
    )
    apply, params = plain()
    points = {"r": jnp.array([[0.1, 0.2], [-0.3, 0.4]]), "u": jnp.ones((1, 2))}
    for call in (ntk.empirical, ntk.traces):
        with pytest.raises(ValueError, match=r"not finite: 1 of the 2 rows of 'r' are not, .* \[-0.3, 0.4\]"):
            call(problem, apply, params, points)
    kernel = ntk.operator(problem, apply, params, points)
    with pytest.raises(ValueError, match="of the 2 rows of 'r' are not"):
        kernel.only("u").cross(kernel)


def test_terms_that_are_not_trained_are_known_to_the_kernel(case):
    problem, apply, params, points, _ = case
    aside = problem.conditions["initial"]._replace(trained=False)
    problem = problem._replace(conditions=problem.conditions | {"initial": aside})
    assert ntk.operator(problem, apply, params, points).untrained == ("initial",)
    assert ntk.empirical(problem, apply, params, points).untrained == ("initial",)


def test_a_vector_valued_condition_has_one_row_a_component():
    network = mlp((2, 8, 2), bias_std=0.5)
    params, x = network.init(jax.random.key(0)), jax.random.uniform(jax.random.key(1), (3, 2))

    def divergence(u):
        return lambda y: partial(0)(u)(y)[0] + partial(1)(u)(y)[1]

    corners = jnp.zeros(2), jnp.ones(2)
    conditions = {
        "value": Condition(lambda u: u, lambda y: jnp.zeros(2), lambda key, n: x),
        "div": Condition(divergence, lambda y: jnp.zeros(()), lambda key, n: x),
    }
    problem = Problem("flow", conditions, corners)
    points = {"value": x, "div": x[:2]}
    j = jacobian(problem, network.apply, params, points)
    for options in {}, {"batch_size": 2}, {"method": "structured"}:
        kernel = ntk.empirical(problem, network.apply, params, points, **options)
        assert kernel.sizes == (6, 2)
        assert error(kernel.matrix, j @ j.T) <= ROUNDING, options


def test_a_nonlinear_operator_is_differentiated_at_the_network_itself():
    network = mlp((2, 8, 1), bias_std=0.5)
    params = network.init(jax.random.key(0))

    def burgers(u):
        return lambda x: partial(1)(u)(x) + u(x) * partial(0)(u)(x)

    conditions = {"r": Condition(burgers, lambda x: 0 * x[0], lambda key, n: jnp.zeros((n, 2)))}
    problem = Problem("burgers", conditions, (jnp.zeros(2), jnp.ones(2)))
    points = {"r": np.array([[0.1, 0.2], [0.7, 0.4]])}  # NumPy's do as well.
    j = jacobian(problem, network.apply, params, points)
    assert error(ntk.empirical(problem, network.apply, params, points, batch_size=1).matrix, j @ j.T) <= ROUNDING


CALLS = {
    "empirical": lambda *args: ntk.empirical(*args),
    "structured": lambda *args: ntk.empirical(*args, method="structured"),
    "traces": ntk.traces,
    "operator": ntk.operator,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "bad, message",
    [
        (jnp.array([1.0, jnp.nan]), r"params\['bad'\] contains NaN or infinity"),
        (jnp.array([1.0, jnp.inf]), r"params\['bad'\] contains NaN or infinity"),
        (jnp.array([1, 2]), r"floating-point arrays, but params\['bad'\]"),
        (np.array([1, 2]), r"floating-point arrays, but params\['bad'\]"),
        (3, r"floating-point arrays, but params\['bad'\]"),
        ("tanh", r"floating-point arrays, but params\['bad'\]"),
        (jnp.tanh, r"floating-point arrays, but params\['bad'\].*`equinox.partition`"),
    ],
    ids=["nan", "inf", "integers", "numpy integers", "integer", "string", "function"],
)
def test_parameters_that_are_not_finite_numbers_are_an_error(call, bad, message):
    problem = helmholtz_2d()
    points = problem.sample(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=message):
        call(problem, lambda params, x: params["good"] * x[0], {"good": jnp.ones(()), "bad": bad}, points)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_points_that_do_not_fit_are_an_error(call):
    apply, params = plain()
    with pytest.raises(ValueError, match=r"must have shape \(n, 2\)"):
        call(helmholtz_2d(), apply, params, {"boundary": jnp.ones((2, 2)), "residual": jnp.ones((2, 1))})


@pytest.mark.parametrize(
    "options, message", [({"method": "fast"}, "`method` must be"), ({"batch_size": 0}, "`batch_size` must be at least")]
)
def test_options_that_do_not_exist_are_an_error(case, options, message):
    problem, apply, params, points, _ = case
    with pytest.raises(ValueError, match=message):
        ntk.empirical(problem, apply, params, points, **options)
