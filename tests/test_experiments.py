"""Every script of ``book/experiments`` at its smallest size, and what the book says about them."""

import importlib
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from pinn_analysis import diagnosis, networks, problems, results, solving

BOOK = Path(__file__).resolve().parent.parent / "book"
SCRIPTS = sorted(path.stem for path in (BOOK / "experiments").glob("*.py") if path.stem != "runs")
UNMEASURED = tuple(set(diagnosis.MEASUREMENTS) - {"residuals"})
NEEDED = {"cavity": "cavity_reference", "diagnosis_cures": "diagnosis_battery"}  # Results that a script reads.
SMALL_FLOW = {"FLOWS": (4,), "LEVELS": (0.9,), "MOST": 20}
# Arguments of `main`, and constants of the script.
BY_STEPS = ("M4", "Algorithm 1", "L-BFGS")
SMALLEST = {
    "annealing": ({"steps": 2, "seeds": 1, "variants": ("code",)}, {"SIZES": (2, 3, 1)}),
    "architecture": ({"steps": 2, "seeds": 1, "names": ("modified 50, annealed",)}, {}),
    "architecture_errors": ({"steps": 2, "seeds": 1, "names": ("Fourier 1, 10",)}, {"RECORDS": 2}),
    "architecture_kernels": ({"steps": 2, "seeds": 1, "names": ("Fourier 1, 10",)}, {"DEPTH": 1}),
    "cavity": ({"steps": 2, "models": ("M2",), "formulations": ("velocity",)}, {"HIDDEN": (3,)}),
    "cavity_reference": ({"finest": 36, "test": 19}, {}),
    "diagnosis_battery": (
        {"equations": ("ode",), "plants": ("clean",), "seeds": 1, "steps": 2},
        {"WIDTH": 3, "POINTS": {"ode": 8}, "LEAVE_OUT": UNMEASURED},
    ),
    "diagnosis_cures": ({"equations": ("ode",), "plants": ("precision",), "seeds": 1}, {}),
    "diagnosis_healthy": (
        {"problem": ("bratu",), "seeds": 1},
        {"HIDDEN": (3,), "UPDATES": 2, "LEAVE_OUT": UNMEASURED},
    ),
    "diagnosis_steps": (
        {"equations": ("ode",), "seeds": 1},
        {"SHAPES": ((3,),), "PARAMETERIZATIONS": ("ntk",), "POINTS": {"ode": 4}, "MOST": 9},
    ),
    "helmholtz_table": ({"models": ("M1",), "widths": (3,), "depths": (1,), "seeds": 1, "steps": 2}, {}),
    "error_against_time": (
        {"cases": ("poisson_4",), "methods": ("solve, float32", "network itself", "limit", *BY_STEPS), "seeds": 1},
        {
            "STEPS": dict.fromkeys(BY_STEPS, 2),
            "CASES": {"poisson_4": (lambda: problems.poisson_1d(4), (3,), {})},
            **{"FULL_BATCH": 8, "BATCH": 2, "SMALL": (3,), "SCALES": (1.0,)},
        },
    ),
    "hard_constraints": (
        {"cases": ("poisson",), "seeds": 1},
        {
            **{"FACTORS": ("1",), "BY_ADAM": ("1",), "WEIGHTS": (1.0,), "STEPS": {"descent": 2, "adam": 2}},
            **{"WIDTHS": (3, 2), "HIDDEN": {"poisson": (3,)}},
            **{"GRIDS": {"poisson": (4,)}, "KERNEL_GRIDS": {"poisson": (4,)}},
        },
    ),
    "hessian": (
        {"width": 3, "steps": 2, "seeds": 1, "cases": ("helmholtz_1_M1",)},
        {"HIDDEN_LAYERS": 1, "PRODUCTS": 2},
    ),
    "klein_gordon": ({"models": ("M2",), "seeds": 1, "steps": 2}, {"WIDTH": 3, "DEPTH": 1}),
    "large_kernel": ({"sizes": (20,), "starts": 1}, {"WIDTH": 4, "PRODUCTS": 2}),
    "nonlinear_kernel": (
        {"seeds": 2, "runs": 1, "steps": 2, "widths": (4,)},
        {"CASES": ("klein_gordon",), "DRAWS": 8, "MATVECS": 2},
    ),
    "ntk_notebook": (
        {"seeds": 1, "widest": 4},
        {
            "WIDTH": 4,
            "STEPS": 20,
            "CASES": ((4, 1.0, "ntk", "speed", (4,)), (4, 1.0, "ntk", "step", (4,))),
            **SMALL_FLOW,
        },
    ),
    "ntk_theory": ({"layers": (1,), "widest": 100}, {"WIDTHS": (10,), "TIMES": (1e-5, 2e-5), "SPECTRA": (10,)}),
    "optimizer_kernels": (
        {"cases": ("poisson",), "what": ("spectra", "Adam"), "seeds": 1},
        {"STEPS": {"Adam": 2}, "HIDDEN": (3,), "GRIDS": {"poisson": (4,)}, "WATCHED": (3, 4), "AHEAD": 2, "FEWER": 1},
    ),
    "poisson_calibration": (
        {"seeds": 2, "steps": 2, "weights": (1,)},
        {"WIDTH": 3, "BEYOND": {"standard": (), "ntk": ()}},
    ),
    "poisson_frequency": ({"steps": 2, "seeds": 1, "frequencies": (1,)}, {"SIZES": (1, 3, 1)}),
    "prediction": ({"seeds": 1, "widths": (4,), "steps": 2}, {}),
    "prediction_limits": (
        {"seeds": 1, "widths": (256,)},
        {"FREQUENCY_STEPS": {"scaled": 2}, "RATE_STEPS": 2, "FRACTIONS": (0.4, 2.0), "STARTS": (1, 2), "HORIZON": 2},
    ),
    "prediction_problems": ({"cases": ("poisson-1",), "seeds": 1, "steps": 2}, {"WIDTHS": {1: (4,)}, "POINTS": 3}),
    "solved": ({"cases": ("poisson_4",), "seeds": 1}, {}),
    "solved_rough": ({"cases": ("allen_cahn",), "seeds": 1}, {"MODES": 64, "TIMES": 9, "MEMORY": 7e6}),
    "solved_width": (
        {"cases": ("poisson_4",), "ways": ("sines", "itself", "limit"), "seeds": 1},
        {
            **{"ROWS": {"poisson_4": {"boundary": 2, "residual": 8}}, "DEPTH": 1},
            **{"LIMIT_ROWS": {"poisson_4": {"boundary": 2, "residual": 4}}},
            **{"WIDTHS": {way: {"poisson_4": (2,)} for way in ("sines", "itself", "limit")}},
        },
    ),
    "solver_control": (
        {"cases": ("poisson_4",), "seeds": 1},
        {
            "SOLVERS": {
                "least squares": None,
                "Gauss-Newton": (solving.gauss_newton, 2, 2),
                "Adam": (lambda: optax.adam(1e-3), 2, 2),
            },
            "TANH": {"poisson_4": (3,)},
        },
    ),
    "wave_calibrated": ({"width": 3, "steps": 1}, {"DEPTH": 1, "SPECTRA_POINTS": 4}),
    "wave_fixed": ({"width": 3, "steps": 2, "seeds": 1}, {"DEPTH": 1}),
    "wave_plain": ({"width": 3, "steps": 2, "seeds": 1}, {"DEPTH": 1}),
    "weight_formulas": (
        {"equations": ("wave_1d",), "steps": 2, "seeds": 1, "width": 3},
        {"DEPTH": 1, "RECORD_EVERY": 1, "RULES": ("no weights", "NTK paper")},
    ),
}


@pytest.fixture
def script(request, monkeypatch):
    """The module of a script, its constants changed; networks of erf, whose limits compile in a tenth of the time."""
    monkeypatch.syspath_prepend(BOOK / "experiments")
    mlp = networks.mlp
    monkeypatch.setattr(networks, "mlp", lambda sizes, activation="erf", **options: mlp(sizes, activation, **options))
    name = request.node.callspec.params["name"]
    module = importlib.import_module(name)
    for constant, value in SMALLEST[name][1].items():
        if isinstance(getattr(module, constant), dict) and isinstance(value, tuple):
            value = {key: getattr(module, constant)[key] for key in value}
        monkeypatch.setattr(module, constant, value)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_experiment_runs_at_its_smallest_size_and_a_second_time_runs_nothing(name, script, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    if name in NEEDED:
        shutil.copy(BOOK / "results" / f"{NEEDED[name]}.npz", tmp_path)
    asked = []
    fill = results.fill

    def listed(name, configs, make):
        asked.extend(configs)
        return fill(name, configs, make)

    monkeypatch.setattr(results, "fill", listed)
    script.main(**SMALLEST[name][0])
    table = results.records(name)
    assert list(table) == asked and asked
    for arrays, how in table.values():
        assert arrays and how["config"]
        assert not any(np.isnan(value).all() for value in arrays.values() if value.dtype.kind == "f")

    def never(config):
        raise AssertionError(f"{config} is there already.")

    monkeypatch.setattr(results, "fill", lambda name, configs, make: fill(name, configs, never))
    script.main(**SMALLEST[name][0])


@pytest.mark.parametrize("name", SCRIPTS)
def test_stored_records_have_the_settings_of_their_script(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BOOK / "experiments")
    asked = {}
    monkeypatch.setattr(results, "fill", lambda name, configs, make: asked.update(configs))
    importlib.import_module(name).main(**({"width": 100} if name == "wave_plain" else {}))
    table = results.records(name)
    lacking = []
    for precision in {how["precision"] for _, how in table.values()}:
        others = {record for record, (_, how) in table.items() if how["precision"] != precision}
        with jax.enable_x64(precision == "float64"):
            lacking.append(set(results.missing(name, {r: c for r, c in asked.items() if r not in others})))
    assert set.union(*lacking) < set(asked)
