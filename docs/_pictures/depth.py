"""The pictures of the page on depth: the law where it holds, and where it does not."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from dynlm.analysis._depth import depth

HERE = Path(__file__).resolve().parents[1] / "_static" / "analysis"
LAYERS, DOCS, EACH = 7, 30, 80
SPREAD = 4.0 * 0.6 ** np.arange(5)
NAMES = {
    "law": "the law",
    "rotation": "best rotation",
    "linear": "least squares",
    "identity": "states stay",
}


def simulated(swap: bool) -> tuple[np.ndarray, np.ndarray]:
    """The law itself; or directions that change the order of their sizes halfway."""
    rng = np.random.default_rng(0)
    u = [np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(LAYERS)]
    states = [(rng.standard_normal((DOCS * EACH, 5)) * SPREAD) @ u[0].T]
    for t in range(LAYERS - 1):
        ratio = np.full(5, 1.1)
        if swap and t == 2:
            ratio[:2] = SPREAD[1] / SPREAD[0], SPREAD[0] / SPREAD[1]
        noise = np.sqrt(1e-3 * np.exp(0.4 * (t + 1))) * rng.standard_normal((DOCS * EACH, 5))
        states.append((states[-1] @ u[t] * ratio) @ u[t + 1].T + noise)
    return np.stack(states, axis=1), np.repeat(np.arange(DOCS), EACH)


def main() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
    found = depth(*simulated(False), seed=0, spans=(1,))
    left.semilogy(found.pairs[:, 1], found.variance, "o", label="residuals")
    left.semilogy(found.pairs[:, 1], found.fitted, "--", label="$a\\,e^{l(t+s)}$")
    left.set(title="noise of a simulated law", xlabel="layer", ylabel="variance per direction")
    left.legend(frameon=False)
    found = depth(*simulated(True), seed=0, spans=(1,))
    for name, label in NAMES.items():
        right.plot(found.pairs[:, 1], found.r_squared[name], "o-", ms=3, label=label)
    right.set(title="two directions swap at layer 3", xlabel="layer", ylabel="held-out $R^2$")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    HERE.mkdir(parents=True, exist_ok=True)
    figure.savefig(HERE / "depth_law.png", dpi=120)


if __name__ == "__main__":
    main()
