"""Rows in PyTorch: a loop written by hand and torchsde, on a GPU where PyTorch finds one."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _models import DRIFT, NOISE, SHIFT, Problem
from _rows import Build, Run, missing
from torch import nn
from torch.nn import functional

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WHERE = "gpu" if DEVICE.type == "cuda" else "cpu"
States = Callable[[], torch.Tensor]


def configure(precision: str | None) -> None:
    """All cores, and products of the same precision as JAX's."""
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)
    names = {"tensorfloat32": "high", "bfloat16": "medium"}
    torch.set_float32_matmul_precision(names.get(precision or "", "highest"))


class Net(nn.Module):
    """The same network of state and time, with the same weights."""

    def __init__(self, layers: Any):
        super().__init__()
        modules: list[nn.Module] = []
        for weight, bias in layers:
            layer = nn.Linear(weight.shape[1], weight.shape[0], device=DEVICE)
            layer.weight.data, layer.bias.data = tensor(weight), tensor(bias)
            modules += [layer, nn.SiLU()]
        self.net = nn.Sequential(*modules[:-1])

    def forward(self, t: Any, y: torch.Tensor) -> torch.Tensor:
        if self.net[0].in_features == y.shape[1]:
            return self.net(y)
        t = t if torch.is_tensor(t) else y.new_full((), float(t))
        return self.net(torch.cat([y, t.to(y.dtype).expand(y.shape[0], 1)], dim=1))


class Neural(nn.Module):
    """What torchsde solves, with the names that it asks for."""

    noise_type = "diagonal"

    def __init__(self, problem: Problem):
        super().__init__()
        nets = problem.nets
        assert nets is not None
        self.sde_type = problem.sde.calculus
        self.scale, self.floor = nets.scale, nets.floor
        self.drift = Net(nets.drift)
        constant = not isinstance(nets.sigma, list)
        self.sigma = None if constant else Net(nets.sigma)
        self.value = nn.Parameter(tensor(nets.sigma)) if constant else None

    def f(self, t: Any, y: torch.Tensor) -> torch.Tensor:
        return self.drift(t, y)

    def g(self, t: Any, y: torch.Tensor) -> torch.Tensor:
        x = self.value.expand(y.shape) if self.sigma is None else self.sigma(t, y)
        return self.floor + self.scale * functional.softplus(x + SHIFT)


class Linear(nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def f(self, t: Any, y: torch.Tensor) -> torch.Tensor:
        return DRIFT * y

    def g(self, t: Any, y: torch.Tensor) -> torch.Tensor:
        return NOISE * y


def rows(problem: Problem) -> dict[str, Build]:
    """Final states by the loop and by torchsde."""
    sde = (Linear() if problem.nets is None else Neural(problem)).to(DEVICE)
    linear, dt = problem.nets is None, problem.dt

    @torch.inference_mode()
    def loop() -> torch.Tensor:
        y = _starts(problem)
        z = torch.empty_like(y)
        for k in range(problem.steps):
            if linear:
                z.normal_().mul_(NOISE * dt**0.5).add_(DRIFT * dt).mul_(y)
            else:
                z.normal_().mul_(dt**0.5).mul_(sde.g(k * dt, y)).add_(sde.f(k * dt, y), alpha=dt)
            y.add_(z)
        return y

    def solved(told: bool) -> Build:
        if (why := missing("torchsde")) is not None:
            return why

        @torch.no_grad()
        def call() -> torch.Tensor:
            return integrate(sde, problem, told=told)[-1]

        return run(call)

    return {
        "torch loop": run(loop),
        "torchsde.sdeint": solved(told=False),
        "torchsde.sdeint, BrownianInterval(dt)": solved(told=True),
    }


def gradient_rows(problem: Problem, reversible: bool) -> dict[str, Build]:
    """Loss and gradient by backpropagation and by adjoints."""
    sde = Neural(problem).to(DEVICE)
    weights = list(sde.parameters())

    def gradient(states: States | str) -> Build:
        if isinstance(states, str):
            return states

        def call() -> tuple[Any, Any]:
            loss = states().square().mean()
            grads = torch.autograd.grad(loss, weights)
            return loss.detach(), torch.cat([grad.ravel() for grad in grads])

        return run(call)

    return {name: gradient(states) for name, states in paths(sde, problem, reversible).items()}


def paths(sde: nn.Module, problem: Problem, reversible: bool) -> dict[str, States | str]:
    """What simulates the states after every step, (steps, paths, dim), to be differentiated."""
    dt = problem.dt

    def loop() -> torch.Tensor:
        y, saved = _starts(problem), []
        for k in range(problem.steps):
            dw = torch.randn_like(y) * dt**0.5
            y = y + sde.f(k * dt, y) * dt + sde.g(k * dt, y) * dw
            saved.append(y)
        return torch.stack(saved)

    def solved(told: bool = False, **options: Any) -> States | str:
        if (why := missing("torchsde")) is not None:
            return why
        return lambda: integrate(sde, problem, every=True, told=told, **options)[1:]

    if reversible:
        return {
            "torchsde.sdeint_adjoint, reversible_heun": solved(
                method="reversible_heun", adjoint=True
            ),
            "torchsde.sdeint backprop, midpoint": solved(method="midpoint"),
        }
    return {
        "torch loop": loop,
        "torchsde.sdeint backprop": solved(),
        "torchsde.sdeint backprop, BrownianInterval(dt)": solved(told=True),
        "torchsde.sdeint_adjoint": solved(adjoint=True),
    }


def integrate(
    sde: nn.Module,
    problem: Problem,
    *,
    method: str = "euler",
    adjoint: bool = False,
    every: bool = False,
    told: bool = False,
) -> torch.Tensor:
    """`torchsde.sdeint`, or `sdeint_adjoint` with the method that it chooses for going back.

    Args:
        told: make the Brownian interval by hand and tell it the step, so that it divides itself
            once instead of finding out.
    """
    import torchsde

    y0 = _starts(problem)
    number = problem.steps + 1 if every else 2
    ts = torch.linspace(0.0, 1.0, number, device=DEVICE, dtype=y0.dtype)
    options: dict[str, Any] = {"method": method, "dt": problem.dt}
    if told:
        options["bm"] = torchsde.BrownianInterval(
            0.0, 1.0, size=tuple(y0.shape), dtype=y0.dtype, device=DEVICE, dt=problem.dt
        )
    solve = torchsde.sdeint_adjoint if adjoint else torchsde.sdeint
    return solve(sde, y0, ts, **options)


def run(call: Callable[[], Any]) -> Build:
    def blocking() -> Any:
        out = call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        out = out if isinstance(out, tuple) else (out,)
        arrays = tuple(x.detach() for x in out)
        return arrays[0] if len(arrays) == 1 else arrays

    return lambda: Run(blocking, where=WHERE)


def _starts(problem: Problem) -> torch.Tensor:
    return tensor(problem.y0).to(_dtype(problem)).repeat(problem.paths, 1)


def _dtype(problem: Problem) -> torch.dtype:
    return getattr(torch, str(problem.dtype))


def tensor(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x), device=DEVICE)
