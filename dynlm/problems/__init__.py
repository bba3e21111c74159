"""Problems with known answers: each an SDE, a start, a horizon, and what is known in closed form.

`docs/problems.md` has the table of what is known about which, with the equations.
"""

from ._linear import gbm as gbm
from ._linear import gbm_correlated as gbm_correlated
from ._linear import gbm_noncommutative as gbm_noncommutative
from ._linear import linear as linear
from ._linear import ou as ou
from ._physics import circle as circle
from ._physics import langevin as langevin
from ._physics import langevin_double_well as langevin_double_well
from ._physics import lorenz as lorenz
from ._problem import Problem as Problem
from ._scalar import additive as additive
from ._scalar import cir as cir
from ._scalar import double_well as double_well
from ._scalar import wave as wave
