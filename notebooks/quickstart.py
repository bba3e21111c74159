# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A simulation against its closed form
#
# We build an SDE whose solution can be written down, simulate it, and compare: first the law over
# many paths, then single paths, whose error must fall with the step in a known way.
#
# The SDE is geometric Brownian motion,
#
# $$ \mathrm{d}y = \mu y\,\mathrm{d}t + \sigma y\,\mathrm{d}W, \qquad
#    y(t) = y_0 \exp\!\left((\mu - \tfrac12\sigma^2)\,t + \sigma W(t)\right). $$

# %%
import os

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt

import dynlm

SMALL = os.environ.get("DYNLM_SMALL") == "1"  # a quick pass, for tests
PATHS = 256 if SMALL else 4096

# %% [markdown]
# ## The SDE
#
# The drift is linear. The noise acts on the one component through that component alone, so the
# diffusion is `Diagonal`, depending on the component.

# %%
mu, sigma, y0 = 0.5, 0.6, jnp.array([1.0])

drift = dynlm.drifts.Linear(mu * jnp.eye(1), jnp.zeros(1))
diffusion = dynlm.diffusions.Diagonal(lambda t, y: sigma * y, dim=1, depends="component")
sde = dynlm.SDE(drift, diffusion)
print(f"{sde.dim} dimension, {sde.diffusion.noise} noise, {sde.calculus} calculus")

# %% [markdown]
# ## Many paths
#
# `solve` makes one path. Many are one `jax.vmap` away.

# %%
ts = jnp.linspace(0.0, 1.0, 33)


@jax.jit
@jax.vmap
def path(key):
    return dynlm.solve(sde, y0, ts, key=key, solver=dfx.Euler(), dt=1 / 128).path


paths = path(jr.split(jr.key(0), PATHS))

mean = jnp.mean(paths.ys[:, :, 0], axis=0)
exact_mean = y0[0] * jnp.exp(mu * ts)
standard_error = jnp.std(paths.ys[:, -1, 0]) / PATHS**0.5
print(f"mean at t = 1: {mean[-1]:.3f} +- {standard_error:.3f}; exactly {exact_mean[-1]:.3f}")
assert abs(mean[-1] - exact_mean[-1]) < 4 * standard_error

# %%
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
ax.plot(ts, paths.ys[:40, :, 0].T, color="0.8", linewidth=0.6)
ax.plot(ts, mean, label=f"mean of {PATHS} paths")
ax.plot(ts, exact_mean, "k--", label=r"$y_0 e^{\mu t}$")
ax.set(xlabel="t", ylabel="y", title="Geometric Brownian motion")
ax.legend()
fig

# %% [markdown]
# ## One path, against its own exact solution
#
# The closed form needs $W(1)$ of the same path. A `CounterBrownianPath` gives it: the path is a
# function of its key, so solver and formula see the same noise.
#
# The error falls like $\sqrt{\Delta t}$ for Euler's scheme, and like $\Delta t$ for Milstein's.

# %%
steps = [8, 64] if SMALL else [8, 16, 32, 64, 128]


def error(solver, n):
    """The mean distance to the exact solution at t = 1, with n steps."""
    end = jnp.array([0.0, 1.0])

    def one(key):
        brownian = dynlm.CounterBrownianPath((1,), key=key, dt=1 / n)
        sol = dynlm.solve(sde, y0, end, brownian=brownian, solver=solver, dt=1 / n)
        exact = y0 * jnp.exp((mu - 0.5 * sigma**2) + sigma * brownian.evaluate(1.0))
        return jnp.abs(sol.path.ys[-1] - exact)[0]

    return float(jnp.mean(jax.jit(jax.vmap(one))(jr.split(jr.key(1), PATHS))))


solvers = {"Euler": dfx.Euler(), "Milstein": dfx.ItoMilstein()}
errors = {name: [error(solver, n) for n in steps] for name, solver in solvers.items()}
dts = [1 / n for n in steps]
for name, found in errors.items():
    slope = jnp.polyfit(jnp.log(jnp.array(dts)), jnp.log(jnp.array(found)), 1)[0]
    print(f"{name}: observed strong order {slope:.2f}")

# %%
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, found in errors.items():
    ax.loglog(dts, found, "o-", label=name)
ax.loglog(dts, 0.4 * jnp.sqrt(jnp.array(dts)), "k:", label=r"slope $\frac{1}{2}$")
ax.loglog(dts, 0.4 * jnp.array(dts), "k--", label="slope 1")
ax.set(xlabel=r"$\Delta t$", ylabel="mean error at t = 1", title="Strong error")
ax.legend()
fig
