"""Ragged trajectories on disk: written so that nothing is lost, read without copying.

store = dynlm.open_store("store")
store.split("train").path(0, 3)                      # a Trajectory of layer 3
projection = fit_projection(store, 3, dim=16)        # principal components, of training documents
batches = Batches(Windows(store.split("train"), 3, length=32, projection=projection), 256, seed=0)
"""

from ._batches import Batches as Batches
from ._format import Manifest as Manifest
from ._format import Record as Record
from ._import import from_arrays as from_arrays
from ._inspect import summary as summary
from ._inspect import table as table
from ._principal import fit_projection as fit_projection
from ._projection import Projection as Projection
from ._projection import load_projection as load_projection
from ._projection import projections as projections
from ._projection import save_projection as save_projection
from ._reader import Row as Row
from ._reader import Store as Store
from ._reader import open_store as open_store
from ._revisions import open_revisions as open_revisions
from ._revisions import write_revisions as write_revisions
from ._split import SHARES as SHARES
from ._tables import read_series as read_series
from ._windows import Windows as Windows
