"""What DeepXDE, jinns and PINA report as losses of a network, against this library: same parameters, same points.

    python benchmarks/libraries.py [deepxde] [jinns] [pina]

For the cheat sheet of the book.  None of them is needed for anything else: a library that is not installed is named and
left out.  PhysicsNeMo and jaxpi are not called: the one wants a GPU's software, the other an older JAX.
"""

import importlib.metadata
import importlib.util
import os
import sys

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np

from pinn_analysis import Condition, laplacian, networks, problems

POISSON = problems.poisson_1d(a=4)
EQUATION = POISSON.conditions["residual"]
WIDTH, WEIGHTS = 20, {"boundary": 7.0, "residual": 0.5}
INSIDE = np.sort(np.random.default_rng(0).uniform(size=15))[:, None]
ENDS = np.array([[0.0], [1.0]])
NETWORK = networks.mlp((1, WIDTH, WIDTH, 1))
PARAMS = NETWORK.init(jax.random.key(0))
# Hidden layers and the last, as (in, out) weights and biases.
LAYERS = [(np.asarray(layer["weight"]), np.asarray(layer["bias"])) for layer in PARAMS]


def source(x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.vmap(EQUATION.target)(jnp.asarray(x)))


def ours(inside: np.ndarray, components: int = 1) -> dict[str, float]:
    """Mean squares; ``components`` repeats the equation, times 1, 2, ..., as a system would have more of them."""
    factors = jnp.arange(1.0, components + 1)
    system = Condition(
        lambda u: lambda x: factors * laplacian(u)(x), lambda x: factors * EQUATION.target(x), EQUATION.sample
    )
    conditions = {"boundary": POISSON.conditions["boundary"], "residual": system}
    problem = POISSON._replace(conditions=conditions)
    points = {"boundary": ENDS, "residual": inside}
    return {k: float(v) for k, v in problem.losses(lambda x: NETWORK.apply(PARAMS, x), points).items()}


def deepxde() -> tuple[dict, dict, dict]:
    """Each equation of a system is a term of its own there.  The equation holds at the points of the boundary too."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde as dde
    import torch

    dde.config.set_default_float("float64")
    geometry = dde.geometry.Interval(0, 1)

    def pde(x, u):
        return dde.grad.hessian(u, x) - torch.as_tensor(source(x.detach().numpy()))[:, None]

    ends = dde.icbc.DirichletBC(geometry, lambda x: 0 * x, lambda x, on: on)  # sin 4πx is 0 there.
    data = dde.data.PDE(geometry, pde, ends, num_domain=0, num_boundary=0, anchors=np.vstack([INSIDE, ENDS]))
    net = dde.nn.FNN([1, WIDTH, WIDTH, 1], "tanh", "Glorot uniform")
    with torch.no_grad():
        for linear, (weight, bias) in zip(net.linears, LAYERS, strict=True):
            linear.weight.copy_(torch.tensor(weight.T))
            linear.bias.copy_(torch.tensor(bias))
    model = dde.Model(data, net)
    model.compile("sgd", lr=0.0, loss_weights=[WEIGHTS["residual"], WEIGHTS["boundary"]], verbose=0)
    history, _ = model.train(iterations=1, display_every=1, verbose=0)
    residual, boundary = history.loss_train[0]
    there = {"boundary": boundary, "residual": residual}
    here = ours(np.vstack([INSIDE, ENDS]))
    return there, {k: WEIGHTS[k] * v for k, v in here.items()}, {}


def jinns() -> tuple[dict, dict, dict]:
    """Means over points, of sums over components and over the faces of the boundary."""
    import equinox as eqx
    import jinns
    from jinns.data._Batchs import PDEStatioBatch

    layers = ((eqx.nn.Linear, 1, WIDTH), (jax.nn.tanh,), (eqx.nn.Linear, WIDTH, WIDTH), (jax.nn.tanh,),
              (eqx.nn.Linear, WIDTH, 1))  # fmt: skip
    u, start = jinns.nn.PINN_MLP.create(key=jax.random.key(0), eqx_list=layers, eq_type="PDEStatio")
    found = iter([leaf for weight, bias in LAYERS for leaf in (weight.T, bias)])
    network = jax.tree.map(lambda leaf: jnp.asarray(next(found)).reshape(leaf.shape), start)
    params = jinns.parameters.Params(nn_params=network, eq_params={})

    def loss_of(components):
        class Equation(jinns.loss.PDEStatio):
            def equation(self, x, u, params):
                second = jnp.trace(jax.hessian(lambda x: u(x, params)[0])(x))
                return jnp.arange(1.0, components + 1) * (second - EQUATION.target(x))

        return jinns.loss.LossPDEStatio(
            u=u, dynamic_loss=Equation(), boundary_condition=jinns.loss.Dirichlet(), params=params,
            loss_weights=jinns.loss.LossWeightsPDEStatio(
                dyn_loss=WEIGHTS["residual"], boundary_loss=WEIGHTS["boundary"]
            ),
        )  # fmt: skip

    batch = PDEStatioBatch(domain_batch=jnp.asarray(INSIDE), border_batch=jnp.asarray(ENDS).reshape(1, 1, 2))
    total, terms = loss_of(1).evaluate(params, batch)
    _, system = loss_of(2).evaluate(params, batch)
    value = lambda term: float(jnp.sum(jnp.asarray(jax.tree.leaves(term))))
    there = {"boundary": value(terms.boundary_loss), "residual": value(terms.dyn_loss)}
    here = ours(INSIDE)
    weighted = sum(WEIGHTS[k] * there[k] for k in there)
    assert np.isclose(float(total), weighted, rtol=1e-12), "The weights multiply what is reported."
    return there, here, {"two components": value(system.dyn_loss) / ours(INSIDE, 2)["residual"]}


def pina() -> tuple[dict, dict, dict]:
    """Means over points and components."""
    import torch
    from pina import Condition as Term, LabelTensor, Trainer
    from pina.domain import CartesianDomain
    from pina.equation import Equation
    from pina.operator import laplacian as second
    from pina.problem import SpatialProblem
    from pina.solver import PINN
    from pina.weighting import ScalarWeighting

    torch.set_default_dtype(torch.float64)
    model = torch.nn.Sequential(
        torch.nn.Linear(1, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(),
        torch.nn.Linear(WIDTH, 1),
    )  # fmt: skip
    with torch.no_grad():
        for linear, (weight, bias) in zip(model[::2], LAYERS, strict=True):
            linear.weight.copy_(torch.tensor(weight.T))
            linear.bias.copy_(torch.tensor(bias))
    labelled = lambda x: LabelTensor(torch.tensor(x), ["x"])

    def reported(components):
        factors = torch.arange(1.0, components + 1)

        def equation(x, u):
            f = torch.tensor(source(x.detach().as_subclass(torch.Tensor).numpy()))[:, None]
            return factors * (second(u, x, components=["u"], d=["x"]).as_subclass(torch.Tensor) - f)

        class Poisson(SpatialProblem):
            output_variables = ["u"]
            spatial_domain = CartesianDomain({"x": [0, 1]})
            conditions = {
                "boundary": Term(input=labelled(ENDS), equation=Equation(lambda x, u: u)),
                "residual": Term(input=labelled(INSIDE), equation=Equation(equation)),
            }

        solver = PINN(Poisson(), model, weighting=ScalarWeighting(WEIGHTS))
        trainer = Trainer(
            solver, max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        before = [p.detach().clone() for p in model.parameters()]
        trainer.train()
        with torch.no_grad():  # The step that was taken after the losses.
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    one, two = reported(1), reported(2)
    there = {name: one[f"{name}_loss"] for name in WEIGHTS}
    weighted = sum(WEIGHTS[name] * there[name] for name in WEIGHTS)
    assert np.isclose(one["train_loss"], weighted, rtol=1e-6), "The weights multiply what is reported."
    return there, ours(INSIDE), {"two components": two["residual_loss"] / ours(INSIDE, 2)["residual"]}


# What is reported over what is ours, in the versions that the cheat sheet names.
CHECKED = {
    "deepxde": ("1.15.0", {"boundary": 1, "residual": 1}),  # Both with their weights.
    "jinns": ("1.10.2", {"boundary": 2, "residual": 1, "two components": 2}),  # Two faces.
    "pina": ("0.3.2", {"boundary": 1, "residual": 1, "two components": 1}),
}
LIBRARIES = {"deepxde": ("deepxde", deepxde), "jinns": ("jinns", jinns), "pina": ("pina-mathlab", pina)}


def factors(name: str) -> dict[str, float]:
    """Reported over ours, by term."""
    there, here, more = LIBRARIES[name][1]()
    return {term: value / here[term] for term, value in there.items()} | more


def main(names: list[str]) -> None:
    for name in names or LIBRARIES:
        package = LIBRARIES[name][0]
        if importlib.util.find_spec(name) is None:
            print(f"{name}: not installed, not checked (pip install {package})")
            continue
        print(f"{name} {importlib.metadata.version(package)}, reported over ours: {factors(name)}")


if __name__ == "__main__":
    main(sys.argv[1:])
