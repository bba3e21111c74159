"""Training of any pytree: a pure step, a loop around it, checkpoints, metrics, devices."""

from ._chunks import Guard as Guard
from ._fit import fit as fit
from ._held_out import HeldOut as HeldOut
from ._loop import NotKept as NotKept
from ._loop import Trained as Trained
from ._metrics import JsonLines as JsonLines
from ._metrics import Writer as Writer
from ._signals import Interrupted as Interrupted
from ._sources import AbstractSource as AbstractSource
from ._sources import InMemory as InMemory
from ._sources import Streamed as Streamed
from ._trainer import Info as Info
from ._trainer import Optimiser as Optimiser
from ._trainer import Trainer as Trainer
from ._trainer import TrainState as TrainState
from ._trainer import trainer as trainer
