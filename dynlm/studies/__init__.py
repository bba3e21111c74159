"""Studies: from a model and texts, or any rows of states, to results and a report.

    done = studies.study_store(store, 3, "study", model=dynlm.lm.load("demo"))
    done.results["cards"]; done.page

`Plan` says how much is done; `study` is of rows in memory, `demo` of nothing but this package.
"""

from ._budget import Budget as Budget
from ._causal import caused as caused
from ._compare import compared as compared
from ._compare import study_revisions as study_revisions
from ._decoding import Decoded as Decoded
from ._decoding import decoded as decoded
from ._demo import demo as demo
from ._effects import Caused as Caused
from ._fits import Fits as Fits
from ._fits import fitted as fitted
from ._given import Given as Given
from ._given import given_paths as given_paths
from ._given import given_store as given_store
from ._plan import DEMO as DEMO
from ._plan import QUICK as QUICK
from ._plan import Plan as Plan
from ._sde import Basis as Basis
from ._steered import Steered as Steered
from ._steered import steered as steered
from ._study import dynamics as dynamics
from ._text import Done as Done
from ._text import study as study
from ._text import study_store as study_store
