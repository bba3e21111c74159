"""The steps of training in `train.py` as others take them, and the bare products of one."""

import functools
import math
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _models import jax_fields, nets_of, numpy_fields
from _peers import brownian_paths, diffeqsolve, matmul_rows, scan
from _rows import Build, jitted
from _train_cases import Case, in_a_scan

SAME_NOISE = "diffrax, CounterBrownianPath"
OWN_PRODUCTS = "matmul, the step's own products, forward and back"


def likelihood_by_hand(model: Any, batch: Any, key: Any) -> Any:
    """The mean of -log N(y'; y + f dt, sigma^2 dt) over all transitions at once."""
    f, sigma = jax_fields(nets_of(model))
    ys, ts = batch.ys, batch.ts
    dim = ys.shape[-1]
    y, y_next = ys[:, :-1].reshape(-1, dim), ys[:, 1:].reshape(-1, dim)
    t, dt = ts[:, :-1].reshape(-1, 1), jnp.diff(ts, axis=1).reshape(-1, 1)
    g = sigma(t, y)
    r = (y_next - y - f(t, y) * dt) / (g * jnp.sqrt(dt))
    each = 0.5 * jnp.sum(r**2 + jnp.log(2 * math.pi * dt), axis=1) + jnp.sum(jnp.log(g), axis=1)
    return jnp.mean(each)


def likelihood_in_numpy(case: Case) -> float:
    """The same of the first batch in float64, and in another library."""
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), case.nets)
    nets = case.problem.nets
    assert nets is not None
    f, sigma = numpy_fields(nets._replace(drift=wide[0], sigma=wide[1]))
    rows = case.batches()[0]
    ys, ts = (np.asarray(x, np.float64)[rows] for x in (case.items.ys, case.items.ts))
    dim = ys.shape[-1]
    y, y_next = ys[:, :-1].reshape(-1, dim), ys[:, 1:].reshape(-1, dim)
    t, dt = ts[:, :-1].reshape(-1, 1), np.diff(ts, axis=1).reshape(-1, 1)
    var = sigma(t, y) ** 2 * dt
    r = y_next - y - f(t, y) * dt
    return float(np.mean(np.sum(0.5 * r**2 / var + 0.5 * np.log(2 * np.pi * var), axis=1)))


def transition_peers(case: Case) -> dict[str, Build]:
    """The likelihood by hand in JAX; what Diffrax has not."""
    by_hand = functools.partial(in_a_scan, case, likelihood_by_hand)
    return {
        "JAX by hand": by_hand(),
        "JAX by hand, batches in parts": by_hand(parts=case.parts),
        "JAX by hand, loss and gradient": by_hand(only="gradient"),
        "diffrax": "not applicable: it has no densities; a step of a solver is a draw",
    }


def path_peers(case: Case) -> dict[str, Build]:
    """The path loss through Diffrax, and through a scan written by hand."""
    problem = case.problem

    def by_diffrax(path: str, adjoint: dfx.AbstractAdjoint) -> Build:
        make = brownian_paths(problem)[path]

        def loss(model: Any, batch: Any, key: Any) -> Any:
            def one(number: Any, observed: Any) -> Any:
                every = dfx.SaveAt(steps=True)
                brownian = make(jr.fold_in(key, number))
                ys = diffeqsolve(problem, model, brownian, adjoint, None, every)
                return jnp.mean((ys - observed[1:]) ** 2)

            return jnp.mean(jax.vmap(one)(jnp.arange(problem.paths), batch.ys))

        return in_a_scan(case, loss)

    def by_hand(model: Any, batch: Any, key: Any) -> Any:
        ys = scan(problem, model, key, every=True)
        return jnp.mean((ys - jnp.swapaxes(batch.ys, 0, 1)[1:]) ** 2)

    default, direct = dfx.RecursiveCheckpointAdjoint(), dfx.DirectAdjoint()
    return {
        SAME_NOISE: by_diffrax("CounterBrownianPath", default),
        "diffrax, VirtualBrownianTree": by_diffrax("VirtualBrownianTree", default),
        "diffrax, VirtualBrownianTree, DirectAdjoint": by_diffrax("VirtualBrownianTree", direct),
        "diffrax, UnsafeBrownianPath": "not applicable: Diffrax refuses its reverse mode",
        "lax.scan, jax.random.normal a step": in_a_scan(case, by_hand),
    }


def products(case: Case) -> tuple[dict[str, Build], dict[str, float]]:
    """The products of a step and nothing else, and the machine's own rate; with their operations.

    Of each network: forward through its layers; back, each layer's weights' derivative and that of
    what went into it, except for the first.
    """
    dtype = case.problem.dtype
    nets = [[jnp.asarray(weight, dtype) for weight, _ in net] for net in case.nets]
    dim = case.problem.dim
    extra = nets[0][0].shape[1] - dim  # of the inputs: time
    y = jnp.asarray(case.items.ys[: case.rows, :-1].reshape(-1, dim), dtype)
    y = jnp.pad(y, ((0, 0), (0, extra)))

    def of_one(net: Any, y: Any) -> Any:
        xs = [y]
        for weight in net:
            xs.append(xs[-1] @ weight.T)
        slope, changes = xs.pop(), []
        for i in reversed(range(len(net))):
            changes.append(slope.T @ xs[i])
            if i:
                slope = slope @ net[i]
        return [w - 1e-9 * change for w, change in zip(net, reversed(changes))]

    def run(nets: Any, y: Any) -> Any:
        # Each step has the weights of the one before, or its products could be left out.
        return jax.lax.fori_loop(0, case.steps, lambda _, nets: [of_one(n, y) for n in nets], nets)

    width = nets[0][-1].shape[1]
    builds, flops = matmul_rows(case.problem._replace(paths=max(case.transitions // 8, 1)), width)
    last = list(builds)[-1]  # the products of a rollout
    del builds[last], flops[last]
    builds[OWN_PRODUCTS] = jitted(run, nets, y)
    flops[OWN_PRODUCTS] = float(case.flops() * case.steps)
    return builds, flops
