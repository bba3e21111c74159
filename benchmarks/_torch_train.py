"""The steps of training in `train.py`, taken by PyTorch and torchsde."""

import math
from collections.abc import Callable
from typing import Any

import torch
from _rows import Build, missing
from _torch_peers import DEVICE, Neural, paths, run, tensor
from _train_cases import RATE, Case

EAGER, ITS_GRADIENT = "torch", "torch, loss and gradient"
PARTED = "torch, batches in parts"
COMPILED = "torch.compile of the loss"
Loss = Callable[[torch.Tensor], torch.Tensor]  # of the numbers of a batch


def likelihood_rows(case: Case, compiled: bool) -> dict[str, Build]:
    """The likelihood of a batch of transitions by hand, backpropagation, Adam."""

    def make(wrap: Callable = lambda loss: loss) -> tuple[Neural, Loss]:
        sde = Neural(case.problem).to(DEVICE)
        ys, ts = tensor(case.items.ys), tensor(case.items.ts)

        @wrap
        def of(ys: torch.Tensor, ts: torch.Tensor) -> torch.Tensor:
            y, y_next = ys[:, :-1].flatten(0, 1), ys[:, 1:].flatten(0, 1)
            t, dt = ts[:, :-1].reshape(-1, 1), ts.diff(dim=1).reshape(-1, 1)
            g = sde.g(t, y)
            r = (y_next - y - sde.f(t, y) * dt) / (g * dt.sqrt())
            each = 0.5 * (r.square() + (2 * math.pi * dt).log()).sum(1) + g.log().sum(1)
            return each.mean()

        return sde, lambda rows: of(ys[rows], ts[rows])

    rows = {
        EAGER: _trained(case, *make()),
        PARTED: _trained(case, *make(), parts=case.parts),
        ITS_GRADIENT: _trained(case, *make(), moves=False),
    }
    return rows | ({COMPILED: _trained(case, *make(torch.compile))} if compiled else {})


def path_rows(case: Case, names: tuple[str, ...]) -> dict[str, Build]:
    """The path loss through each of `_torch_peers.paths`."""
    rows: dict[str, Build] = {}
    for name in names:
        if "torchsde" in name and (why := missing("torchsde")) is not None:
            rows[name] = why
            continue
        sde = Neural(case.problem).to(DEVICE)  # of its own: it is trained
        rows[name] = _trained(case, sde, _through(case, sde, name))
    return rows


def _through(case: Case, sde: Neural, name: str) -> Loss:
    states: Any = paths(sde, case.problem, reversible=False)[name]
    observed = tensor(case.items.ys)[:, 1:].transpose(0, 1).contiguous()
    return lambda rows: (states() - observed[:, rows]).square().mean()


def _trained(case: Case, sde: Neural, loss: Loss, *, moves: bool = True, parts: int = 1) -> Build:
    """As many steps as `case` has: losses and norms of gradients before each."""
    weights = [p for p in sde.parameters() if p.requires_grad]
    adam = torch.optim.Adam(weights, lr=RATE)
    numbers = tensor(case.batches()).long()

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        losses, norms = [], []
        for rows in numbers:
            adam.zero_grad()
            value = torch.zeros((), device=rows.device)
            for part in rows.chunk(parts):
                of_part = loss(part) / parts
                of_part.backward()
                value = value + of_part.detach()
            losses.append(value)
            grads = [p.grad.ravel() for p in weights if p.grad is not None]
            norms.append(torch.cat(grads).norm())
            if moves:
                adam.step()
        return torch.stack(losses), torch.stack(norms)

    return run(call)
