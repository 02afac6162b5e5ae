"""A cause that was planted is the first one named, and what works is left alone."""

import functools
import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from click.testing import CliRunner

from pinn_analysis import Condition, Problem, cli, diagnose, diagnosis, mlp, operators, problems, solving, standardized
from pinn_analysis.diagnosis import _activations, _measure
from pinn_analysis.problems import box, faces

LOW, HIGH = jnp.zeros(1), jnp.ones(1)
SOLUTION = lambda x: jnp.sin(3 * x[0])
BOUNDARY = Condition(operators.identity, SOLUTION, faces(LOW, HIGH))
RESIDUAL = Condition(operators.partial(0, 0), lambda x: -9 * SOLUTION(x), box(LOW, HIGH))
PROBLEM = Problem("bar", {"boundary": BOUNDARY, "residual": RESIDUAL}, (LOW, HIGH))
NETWORK = standardized(mlp((1, 16, 1), bias_std=1.0), LOW, HIGH)
SIZES = {"boundary": 2, "residual": 30}
FEW = ("gradients", "hessian", "kernel", "step", "precision", "inputs")  # What the tests of a problem do without.


def solve(problem):
    """Parameters that solve a problem, by least squares."""
    points = problem.sample(jax.random.key(1), SIZES)
    return solving.least_squares(problem, NETWORK, points, key=jax.random.key(0)).params


@functools.cache
def solved():
    return solve(PROBLEM)


def of(problem, params=None, **options):
    points = problem.sample(jax.random.key(2), {name: SIZES.get(name, 10) for name in problem.conditions})
    return diagnose(problem, NETWORK.apply, solved() if params is None else params, points, budget=1e6, **options)


@pytest.fixture(scope="module")
def healthy():
    return of(PROBLEM, optimizer=optax.adam(1e-3), solution=SOLUTION)


def test_a_network_that_solves_its_problem_has_no_finding_and_everything_is_measured(healthy):
    assert healthy.findings == [] and healthy.not_measured == {}
    assert set(healthy.measured) == {"weights", *_measure.MEASUREMENTS} and healthy.error < 1e-4
    assert "nothing found" in str(healthy)


def test_the_network_is_judged_without_a_known_solution_as_with_it(healthy):
    x = healthy.test
    exact = jax.vmap(SOLUTION)(x)
    away = jax.tree.map(lambda leaf: 1.1 * leaf, solved())
    true = np.linalg.norm(jax.vmap(NETWORK.apply, (None, 0))(away, x) - exact) / np.linalg.norm(exact)
    found = of(PROBLEM, away, leave_out=FEW)
    np.testing.assert_allclose(found.error, true, rtol=1e-3)


def test_predicted_cosines_are_those_of_the_gradients(healthy):
    measured = healthy.measured
    for pair, cosine in measured["gradients"]["cosines"].items():
        np.testing.assert_allclose(measured["kernel"]["cosines"][pair], cosine, atol=1e-6)


def test_weights_balance_the_rates_of_the_kernel(healthy):
    rates = healthy.measured["kernel"]["rates"]
    products = [rates[name] * weight for name, weight in healthy.weights.items()]
    np.testing.assert_allclose(products, max(rates.values()))


def test_a_wrong_sign_is_seen_by_the_solution_and_not_claimed_without_it():
    flipped = RESIDUAL._replace(target=lambda x: 9 * SOLUTION(x))
    wrong = PROBLEM._replace(conditions={"boundary": BOUNDARY, "residual": flipped})
    found = of(wrong, solution=SOLUTION, leave_out=FEW).findings[0]
    assert (found.cause, found.where) == ("wrong sign or coefficient", "residual")
    causes = {f.cause for f in of(wrong, solve(wrong), leave_out=FEW).findings}
    assert "wrong sign or coefficient" not in causes


def test_the_coefficient_that_fits_the_solution_is_found():
    problem = problems.helmholtz_2d(1, 1, k=3)
    wrong = problem._replace(
        conditions=problem.conditions | {"residual": problem.conditions["residual"]._replace(
            operator=problems.helmholtz_2d(1, 1, k=2).conditions["residual"].operator
        )}
    )  # fmt: skip
    case = _case(wrong, mlp((2, 4, 1)), problem.solution)
    ((before, fits),) = _measure._coefficients(case).values()
    assert before == 2 and fits == pytest.approx(3, rel=1e-6)


def test_a_field_fits_the_number_that_it_was_trained_with():
    right, other = (problems.helmholtz_2d(1, 1, k=k) for k in (3, 2))
    exact = mlp((2, 4, 1))._replace(apply=lambda params, x: right.solution(x) + 0 * params[0]["bias"][0])
    ((name, found),) = _measure.sweep(_case(right, exact), {}).items()
    assert name == "residual" and found["now"] == 3 and found["fits"] == pytest.approx(3, rel=1e-9)
    assert np.argmin(found["residuals"]) == found["numbers"].index(3) and found["residuals"][2] < 1e-10
    ((_, found),) = _measure.sweep(_case(right.replaced(residual=right.conditions["residual"]._replace(
        operator=other.conditions["residual"].operator)), exact), {}).items()  # fmt: skip
    assert found["now"] == 2 and found["fits"] == pytest.approx(3, rel=1e-6)


def _case(problem, network, solution=None):
    points = problem.sample(jax.random.key(0), 20)
    params = network.init(jax.random.key(0))
    x = box(*problem.domain)(jax.random.key(1), 64)
    ones = dict.fromkeys(problem.conditions, 1.0)
    return _measure.Case(problem, network.apply, params, points, points, x, ones, None, solution, ((), True))


def test_one_end_without_a_value_leaves_more_than_one_solution():
    one_end = PROBLEM._replace(
        conditions={"boundary": BOUNDARY._replace(sample=faces(LOW, HIGH, (0, 0))), "residual": RESIDUAL}
    )
    assert of(one_end, leave_out=FEW).findings[0].cause == "missing condition"


def test_readings_of_something_else_contradict_the_rest_and_are_named():
    x = jnp.linspace(0.1, 0.9, 9)[:, None]
    both = PROBLEM._replace(conditions=PROBLEM.conditions | {"readings": problems.data(x, 1 + x[:, 0])})
    found = of(both, leave_out=FEW).findings[0]
    assert (found.cause, found.where) == ("contradictory data", "readings")


def test_a_hard_constraint_is_no_missing_condition():
    problem = PROBLEM.only("residual")
    apply = lambda params, x: x[0] * jnp.sin(3.0) + x[0] * (1 - x[0]) * NETWORK.apply(params, x)
    points = problem.sample(jax.random.key(2), 30)
    found = diagnose(problem, apply, solved(), points, leave_out=FEW, budget=1e6)
    assert found.measured["reference"]["disagreement"] < 1e-6
    assert "missing condition" not in {f.cause for f in found.findings}


def test_activations_are_found_in_networks_of_other_libraries_and_are_what_they_compute():
    x = jnp.linspace(-1, 1, 7)[:, None]
    flax = nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(4), nn.sigmoid, nn.Dense(1)])
    params = flax.init(jax.random.key(0), x[0])
    first, second = _activations.layers(lambda p, x: flax.apply(p, x)[0], params, x)
    layer = params["params"]["layers_0"]
    np.testing.assert_allclose(first.inputs, x @ layer["kernel"] + layer["bias"], atol=1e-6)
    assert (first.name, second.name, second.inputs.shape) == ("tanh", "logistic", (7, 4))
    tree, static = eqx.partition(eqx.nn.MLP(1, 1, 6, 2, jnp.sin, key=jax.random.key(0)), eqx.is_array)
    found = _activations.layers(lambda p, x: eqx.combine(p, static)(x)[0], tree, x)
    assert [(layer.name, layer.inputs.shape) for layer in found] == [("sin", (7, 6))] * 2


def test_a_measurement_that_fails_takes_no_other_with_it(monkeypatch):
    def broken(case, measured):
        raise RuntimeError("no kernel today")

    monkeypatch.setitem(_measure.MEASUREMENTS, "output", broken)
    found = of(PROBLEM, leave_out=FEW)
    assert found.not_measured["output"] == "RuntimeError: no kernel today"
    assert found.not_measured["reference"] == "needs 'output', which is not measured"
    assert "residuals" in found.measured and "no kernel today" in str(found)
    with pytest.raises(ValueError, match="The kernel was not measured: left out"):
        print(found.weights)


def test_a_spent_budget_is_said():
    found = of(PROBLEM, leave_out=("output",))
    assert found.not_measured["output"] == "left out"
    points = PROBLEM.sample(jax.random.key(2), SIZES)
    late = diagnose(PROBLEM, NETWORK.apply, solved(), points, budget=1e-9)
    assert late.not_measured == dict.fromkeys(_measure.MEASUREMENTS, "the budget of 1e-09 s was spent")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "positive; got 0"),
        ({"weights": {"boundary": 1.0}}, "missing: .'residual'"),
        ({"weights": {"boundary": 1.0, "residual": -1.0}}, "not negative"),
        ({"leave_out": ("kernels",)}, "must name measurements"),
    ],
)
def test_a_bad_argument_is_refused_with_what_was_wanted(options, message):
    points = PROBLEM.sample(jax.random.key(2), SIZES)
    with pytest.raises(ValueError, match=message):
        diagnose(PROBLEM, NETWORK.apply, solved(), points, **options)


def test_the_page_stands_alone_is_light_and_dark_and_is_written_whole_or_not_at_all(healthy, tmp_path, monkeypatch):
    page = healthy.to_html(tmp_path / "page.html").read_text()
    assert "light dark" in page and "<svg" in page and page.rstrip().endswith("</html>")
    assert not re.search(r"""(src|href)=["']https?:|@import|<script|<link""", page)
    (tmp_path / "page.html").write_text("before")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        healthy.to_html(tmp_path / "page.html")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("page.html", "before")]


MINE = """
import jax, jax.numpy as jnp
from pinn_analysis import Condition, Problem, mlp, operators
from pinn_analysis.problems import box, faces
low, high = jnp.zeros(1), jnp.ones(1)
problem = Problem("mine", {
    "boundary": Condition(operators.identity, lambda x: 2 * x[0], faces(low, high)),
    "residual": Condition(operators.partial(0, 0), lambda x: 0.0, box(low, high)),
}, (low, high))
apply = mlp((1, 4, 1)).apply
params = mlp((1, 4, 1)).init(jax.random.key(0))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return lambda *args: CliRunner().invoke(cli.main, args)


def test_the_command_diagnoses_a_file_and_writes_its_page(run, tmp_path):
    result = run("diagnose", "mine.py", "--budget", "1e-9")
    assert result.exit_code == 0 and "mine: error not known" in result.output
    assert "measuring" not in result.stdout and (tmp_path / "mine.html").exists()


def test_the_command_solves_a_file(run):
    result = run("solve", "mine.py")
    assert result.exit_code == 0 and "relative error about" in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("problem = 1", "it lacks `apply`, `params`"),
        ("problem = apply = params = 1", "must be a pinn_analysis.Problem, got int"),
        ("1 / 0", "ZeroDivisionError"),
        (MINE + "params = {'w': jnp.array([jnp.nan])}", "contains NaN"),
    ],
)
def test_a_file_that_does_not_define_what_it_must_is_refused(run, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    result = run("diagnose", "mine.py")
    assert result.exit_code == 1 and message in result.output and not (tmp_path / "mine.html").exists()


def test_the_command_lists_experiments_and_knows_which_there_are(run):
    listed = run("experiments", "list").output
    assert "diagnosis_battery" in listed and "Planted causes and healthy runs" in listed
    assert "there are annealing" in run("experiments", "run", "nothing").output
    for command in ((), ("diagnose",), ("solve",), ("experiments",), ("experiments", "run")):
        assert run(*command, "--help").exit_code == 0


def test_every_cause_is_documented_and_counted_as_the_battery_counts():
    table = diagnosis.__doc__
    assert all(re.search(rf"^{cause}  ", table, re.M) for cause in diagnosis.CAUSES)
