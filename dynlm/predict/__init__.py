"""Any one-step model as a predictor, and what it is worth on held-out documents."""

from ._embedding import Embedding as Embedding
from ._embedding import embeddable as embeddable
from ._power import Power as Power
from ._power import power as power
from ._predictor import AbstractPredictor as AbstractPredictor
from ._refinement import Refinement as Refinement
from ._refinement import refinement as refinement
from ._score import score as score
from ._sde import FromSDE as FromSDE
from ._sde import SolverSteps as SolverSteps
from ._table import ScoreTable as ScoreTable
