"""Language models whose hidden states are arguments and results.

model = dynlm.lm.load("demo")                     # or a hub id, or a folder
tokens, positions = model.batch(["Call me Ishmael."])
logits, states = model(tokens, positions, edit={3: fn}, layers=(3, 4, "final"))
sampled = model.sample(["Call me"], key=key, budget=40, layers=None)
"""

from . import pretrain as pretrain
from ._config import Config as Config
from ._config import Layer as Layer
from ._config import Rope as Rope
from ._config import llama as llama
from ._decoder import Cache as Cache
from ._decoder import Decoder as Decoder
from ._decoder import Out as Out
from ._decoding import Decoding as Decoding
from ._decoding import draw as draw
from ._decoding import greedy as greedy
from ._decoding import min_p as min_p
from ._decoding import repetition_penalty as repetition_penalty
from ._decoding import temperature as temperature
from ._decoding import top_k as top_k
from ._decoding import top_p as top_p
from ._documents import Document as Document
from ._documents import read_documents as read_documents
from ._documents import read_prompts as read_prompts
from ._export import export as export
from ._foreign import Uncached as Uncached
from ._grid import Sampling as Sampling
from ._load import load as load
from ._model import LanguageModel as LanguageModel
from ._model import Source as Source
from ._names import Layers as Layers
from ._sample import Row as Row
from ._sample import Sampled as Sampled
from ._sample import sample as sample
from ._save import save as save
from ._score import Scores as Scores
from ._score import score as score
