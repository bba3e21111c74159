"""Baselines: models that every fit is reported beside, fitted to rows and scored in one way.

    models = {"var1": baselines.var1(paths), "density": baselines.mixture_density(paths, 8, key=k)}

All are predictors: `start`, `see`, `law`. All take a batch of training rows and leave out the
transitions out of the first state of each (`burn=1`). The random walk and the Ornstein-Uhlenbeck
process know of time; to the others a step is a step, whatever its gap.
"""

from ._density import MixtureDensity as MixtureDensity
from ._density import mixture_density as mixture_density
from ._linear import Autoregressive as Autoregressive
from ._linear import Independent as Independent
from ._linear import RandomWalk as RandomWalk
from ._linear import autoregression as autoregression
from ._linear import iid as iid
from ._linear import random_walk as random_walk
from ._linear import var1 as var1
from ._ou import NotEmbeddable as NotEmbeddable
from ._ou import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from ._ou import embedding as embedding
from ._ou import ou as ou
from ._shuffled import time_shuffled as time_shuffled
from ._switching import Switching as Switching
from ._switching import switching as switching
