r"""Diffusions: the $g(t, y)$ of an SDE, with its noise class and its fast linear algebra.

A diffusion called at `(t, y)` returns a Lineax operator of shape (dim, noise_dim). Its covariance
is $\Sigma = g g^\top$; `solve` applies $\Sigma^{-1}$ and `logdet` is $\log\det\Sigma$.

`noise` says which solvers may be used:

- `"additive"`: g does not depend on the state;
- `"commutative"`: the columns $g_j$ satisfy $Dg_i\,g_j = Dg_j\,g_i$, so no Levy area enters;
- `"general"`: anything else. A diagonal whose entries depend on the whole state is general.

`Family.learned(dim, on=..., time=..., key=...)` makes the learned ones, positive by construction:
`on` is "nothing", "time", "component" (`Diagonal` only) or "state". Networks, of `depth` hidden
layers of `width`, see time too unless `time=None`; use that wherever the data are fitted without
their times. The positive entries start at about `scale` and never fall below `floor`.
"""

from ._base import AbstractDiffusion as AbstractDiffusion
from ._base import commutator as commutator
from ._diagonal import Diagonal as Diagonal
from ._diagonal import Scalar as Scalar
from ._function import Function as Function
from ._matrix import Constant as Constant
from ._matrix import Full as Full
from ._matrix import LowRank as LowRank
