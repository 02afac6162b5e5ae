"""neural-tangents 0.6.5 on current JAX, without TensorFlow.

neural-tangents has had no release since 2024, and JAX and SciPy have since moved or
removed a dozen names that it uses.  While it is being imported, `load` lets it see facades
of the modules concerned: the real module, plus the old names.  Only `sys.modules` is
touched, and put back right after the import, so JAX stays what it was for everything else.
Its `experimental` part needs TensorFlow, and is left out.
"""

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.api_util

# Everything that neural-tangents imports from JAX has to be loaded before its facade is.
import jax.example_libraries.stax
import jax.experimental.ode
import jax.extend.core
import jax.extend.linear_util
import jax.extend.source_info_util
import jax.numpy as jnp
import jax.scipy.special
import numpy as np
import scipy.linalg
import scipy.special
from jax.interpreters import ad

VERSION = "0.6.5"
INSTALL = f"pip install --no-deps neural-tangents=={VERSION}"


@functools.cache
def load() -> types.ModuleType:
    """The module `neural_tangents`, imported on first use.

    Raises:
        ModuleNotFoundError: it is not installed; says the one line that installs it.
    """
    if sys.modules.get("neural_tangents") is not None:
        return sys.modules["neural_tangents"]
    spec = importlib.util.find_spec("neural_tangents")
    if spec is None:
        raise ModuleNotFoundError(
            f"The closed forms of infinite-width kernels need neural-tangents: `{INSTALL}` "
            "(`--no-deps` because it asks for TensorFlow, which nothing here uses)."
        )
    for name in [name for name in sys.modules if name.startswith("neural_tangents.")]:
        del sys.modules[name]  # Left over from an import of it, before ours, that failed.
    experimental = types.ModuleType("neural_tangents.experimental")  # In place of TensorFlow's.
    experimental.__path__ = [f"{spec.submodule_search_locations[0]}/experimental"]
    with _in_sys_modules(_facades()), _in_sys_modules({experimental.__name__: experimental}):
        module = importlib.import_module("neural_tangents")
        empirical = importlib.import_module("neural_tangents._src.empirical")
    empirical._eqn_vjp_fn = _eqn_vjp_fn
    empirical._get_flops = _get_flops
    empirical.lu = _Facade("jax.extend.linear_util", jax.extend.linear_util, wrap_init=_wrap_init)
    # Newer `jnp.dtype` and `jnp.size` frown on the arguments they are given there.
    empirical.jnp = _Facade("jax.numpy", jnp, dtype=jnp.result_type, size=np.size)
    return module


class _Facade(types.ModuleType):
    """A module with ``attributes``, and for the rest those of ``modules``."""

    def __init__(self, name: str, *modules: types.ModuleType, **attributes: Any):
        super().__init__(name)
        vars(self).update(attributes, _modules=modules)

    def __getattr__(self, attribute: str) -> Any:
        for module in self._modules:
            with contextlib.suppress(AttributeError):
                return getattr(module, attribute)
        raise AttributeError(f"module {self.__name__!r} has no attribute {attribute!r}")


@contextlib.contextmanager
def _in_sys_modules(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _facades() -> dict[str, types.ModuleType]:
    ad_facade = _Facade(
        "jax.interpreters.ad",
        ad,
        config=jax.config,
        linearize=_linearize,
        source_info_util=jax.extend.source_info_util,
        zeros_like_p=jax.extend.core.Primitive("zeros_like"),
    )
    core = _Facade(
        "jax.core",
        jax.extend.core,
        jax.core,
        # From JAX 0.4.36 on, `eval_context` rejects the tracers of `vmap` and `jit`.
        eval_context=jax.ensure_compile_time_eval,
        DShapedArray=type("DShapedArray", (), {}),
    )
    interpreters = _Facade("jax.interpreters", jax.interpreters, ad=ad_facade)
    linalg = _Facade(
        "scipy.linalg",
        scipy.linalg,
        eigvalsh=lambda a, eigvals: scipy.linalg.eigvalsh(a, subset_by_index=eigvals),
    )
    util = _Facade(
        "jax.util",
        safe_map=lambda f, *args: list(map(f, *args)),
        safe_zip=lambda *args: list(zip(*args, strict=True)),
    )
    top = _Facade("jax", jax, core=core, interpreters=interpreters)
    modules = [ad_facade, core, interpreters, linalg, util, top, _Facade("scipy", scipy, linalg=linalg)]
    return {module.__name__: module for module in modules}


def _wrap_init(fun: Callable) -> Any:
    """Like the original, which is deprecated without `debug_info`."""
    debug_info = jax.api_util.debug_info("empirical_ntk_fn", fun, (), {})
    return jax.extend.linear_util.wrap_init(fun, debug_info=debug_info)


def _linearize(fun: Any, *primals: Any, has_aux: bool = False) -> tuple:
    """`ad.linearize` with its old signature, from the public API."""
    assert not has_aux  # Never asked for.
    out, f_jvp = jax.linearize(lambda *args: fun.call_wrapped(*args), *primals)
    jaxpr = jax.make_jaxpr(f_jvp)(*primals)
    unknown = types.SimpleNamespace(is_known=lambda: False)
    return out, [unknown] * len(out), jaxpr.jaxpr, jaxpr.consts


def _eqn_vjp_fn(eqn: Any, ct: Any, *invals: Any) -> Any:
    """Like the original, but also for primitives without an old-style transpose rule."""
    if eqn is None:  # The identity function.
        return (ct,)
    if type(ct) is ad.Zero:
        return [None] * len(invals)
    ct = [ct] if eqn.primitive.multiple_results else ct
    if eqn.primitive in ad.primitive_transposes:
        return ad.primitive_transposes[eqn.primitive](ct, *invals, **eqn.params)

    linear = [i for i, value in enumerate(invals) if ad.is_undefined_primal(value)]

    def bind(*args: Any) -> Any:
        given = dict(zip(linear, args, strict=True))
        return eqn.primitive.bind(*(given.get(i, v) for i, v in enumerate(invals)), **eqn.params)

    cts = jax.linear_transpose(bind, *(invals[i].aval for i in linear))(ct)
    cts = dict(zip(linear, cts, strict=True))
    return [cts.get(i) for i in range(len(invals))]


def _get_flops(f: Callable, optimize: bool, *args: Any, **kwargs: Any) -> float:
    """Like the original; until JAX 0.5 `cost_analysis` returned a list."""
    stage = jax.jit(f).lower(*args, **kwargs)
    analysis = (stage.compile() if optimize else stage).cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]
