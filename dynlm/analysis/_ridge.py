"""`Ridge`: regressions on functions of the state, of all directions at once or of one alone."""

from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from ._directions import directions
from ._scales import FOLDS, States

FEATURES = 192
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # as shares of the features' variance; and an infinite one
WIDTHS = (0.3, 3.0)  # frequencies of the cosines, per standard deviation of the states
WAVES = (1.0, 2.0)  # those of the cosine and the sine of one direction
FAR = 4.0  # standard deviations; components of states count as no farther
KURTOSIS, SKEWNESS = 2, 1  # how many directions are found by each

Rows = Float[np.ndarray, "state column"]
Sums = Float[np.ndarray, "fold feature column"]


@final
class Fitted(NamedTuple):
    """Coefficients of the features that were chosen; those of the others are zero."""

    index: Int[np.ndarray, " feature"]
    weights: Float[np.ndarray, "feature column"]


@final
class Ridge:
    r"""Ridge regressions on functions of the state without their linear part, and on it, by fold.

    Functions are in blocks, and a fit is on one of them:

    - random cosines $\sqrt2\cos(\Omega z + b)$ of all components at once;
    - s, $\cos s$, $\sin s$, $\cos 2s$ and $\sin 2s$ of one component s;
    - these of all components together;
    - these of one of a few directions in which states of other folds are least Gaussian;
    - these of all such directions together.

    An effect of one of many components is in every random cosine a little, and lost; of the five
    functions of that component it is a large part. Block and penalty, which may be infinite, are
    chosen on a fold after the one left out, and directions are found on neither of the two.

    Everything is in sums over folds, so that a fit of a random order costs one product with the
    features. Blocks, directions and the sums of squares of the features know of no order.
    """

    def __init__(self, s: States, features: int, rng: np.random.Generator):
        dim = s.z.shape[1]
        low, high = np.log(WIDTHS)
        scales = np.exp(rng.uniform(low, high, (1, features))) / np.sqrt(dim)
        # Few states are far out, and what is fitted to them says nothing of others.
        near = np.clip(s.z, -FAR, FAR)
        angles = near @ (rng.standard_normal((dim, features)) * scales)
        mixed = np.sqrt(2) * np.cos(angles + rng.uniform(0, 2 * np.pi, features))
        fold = np.repeat(np.arange(FOLDS), np.diff(s.bounds))
        found = [
            directions(s.z[~np.isin(fold, _left_out(k))], rng, kurtosis=KURTOSIS, skewness=SKEWNESS)
            if dim > 1
            else np.zeros((dim, 0))
            for k in range(FOLDS)
        ]
        lines = s.z @ np.column_stack(found)
        waves = [f(w * np.clip(x, -FAR, FAR)) for x in (s.z, lines) for w in WAVES
                 for f in (np.cos, np.sin)]  # fmt: skip
        both = np.column_stack([np.ones(len(s.z)), s.z])
        phi = np.column_stack([mixed, *waves])
        bent = phi - both @ np.linalg.lstsq(both, phi, rcond=None)[0]
        self.phi = np.column_stack([bent, s.z, lines])
        self.bounds = s.bounds
        share = len(s.x) / len(s.z)
        self.grams = share * self.sums(self.phi)
        self.count = np.bincount(s.fold, minlength=FOLDS)
        self._blocks(features, dim, [u.shape[1] for u in found])
        self._roots()

    def _blocks(self, features: int, dim: int, found: list[int]) -> None:
        """The columns of each block, of blocks of one size together, for each fold left out."""
        total, waves = sum(found), 2 * len(WAVES)
        ends = features + waves * np.array([0, dim, dim + total])
        of_axis = ends[0] + np.arange(waves * dim).reshape(waves, dim)
        of_axis = np.concatenate([of_axis, ends[2] + np.arange(dim)[None]])
        of_line = ends[1] + np.arange(waves * total).reshape(waves, total)
        of_line = np.concatenate([of_line, ends[2] + dim + np.arange(total)[None]])
        mixed = np.concatenate([np.arange(features), ends[2] + np.arange(dim)])
        self.blocks: list[list[Int[np.ndarray, "block feature"]]] = []
        for stop, number in zip(np.cumsum(found), found):
            lines = of_line[:, stop - number : stop]
            several = [x.reshape(1, -1) for x in (of_axis, lines) if x.shape[1] > 1]
            self.blocks.append([mixed[None], np.concatenate([of_axis, lines], axis=1).T, *several])

    def _roots(self) -> None:
        """Eigenvalues of the sums of squares of each block, without one fold, and without two."""
        self.roots = []
        for k in range(FOLDS):
            for left_out in (_left_out(k), [k]):
                kept = np.setdiff1d(np.arange(FOLDS), left_out)
                gram, parts = self.grams[kept].sum(axis=0), []
                for index in self.blocks[k]:
                    own = _square(gram, index)
                    w, v = np.linalg.eigh(own)
                    unit = np.trace(own, axis1=1, axis2=2) / index.shape[1]
                    penalties = np.asarray(PENALTIES)[:, None, None] * unit[:, None]
                    parts.append((v, 1 / (np.maximum(w, 0) + penalties + 1e-300)))
                self.roots.append((kept, parts))
        self.inner = [
            [_square(self.grams[_left_out(k)[1]], index) for index in self.blocks[k]]
            for k in range(FOLDS)
        ]

    def sums(self, values: Rows) -> Sums:
        r"""$\sum\phi\,v^\top$ of each fold."""
        ends = zip(self.bounds, self.bounds[1:])
        return np.stack([self.phi[a:b].T @ values[a:b] for a, b in ends])

    def solve(self, k: int, c: Sums, noise: float) -> Fitted:
        """Without fold k, of the block and the penalty that are best on the fold after it.

        Of many blocks one seems to gain where there is nothing, and would then cost a little. So
        some gain must be larger than its standard error by chance; `noise` is the variance of a
        column.
        """
        inner = c[_left_out(k)[1]]
        kept, parts = self.roots[2 * k]
        near = c[kept].sum(axis=0)
        best, chosen, sure = 0.0, None, False
        for one, (index, (v, shrink), gram) in enumerate(
            zip(self.blocks[k], parts, self.inner[k], strict=True)
        ):
            turned = v.swapaxes(1, 2) @ near[index]
            w = v @ (shrink[..., None] * turned)  # (penalty, block, feature, column)
            square = np.sum(w * (gram @ w), axis=(2, 3))
            error = 2 * np.sqrt(noise * np.maximum(square, 0))
            gains = 2 * np.sum(w * inner[index], axis=(2, 3)) - square
            sure |= bool((gains > error).any())
            if gains.max() > best:
                best = float(gains.max())
                chosen = one, *np.unravel_index(int(np.argmax(gains)), gains.shape)
        if chosen is None or not sure:
            return Fitted(np.zeros(0, int), np.zeros((0, c.shape[2])))
        one, penalty, block = chosen
        kept, parts = self.roots[2 * k + 1]
        index, (v, shrink) = self.blocks[k][one][block], parts[one]
        turned = v[block].T @ c[kept].sum(axis=0)[index]
        return Fitted(index, v[block] @ (shrink[penalty, block][:, None] * turned))

    def gain(self, c: Sums, noise: float) -> float:
        """How much less the squares of held-out folds sum to."""
        total = 0.0
        for k in range(FOLDS):
            index, w = self.solve(k, c, noise)
            gram = self.grams[k][np.ix_(index, index)]
            total += 2 * np.sum(w * c[k][index]) - np.sum(w * (gram @ w))
        return float(total)


def _left_out(k: int) -> list[int]:
    """The fold that is scored, and the one that is chosen on."""
    return [k, (k + 1) % FOLDS]


def _square(
    gram: Float[np.ndarray, "all all"], index: Int[np.ndarray, "block feature"]
) -> Float[np.ndarray, "block feature feature"]:
    return gram[index[:, :, None], index[:, None, :]]
