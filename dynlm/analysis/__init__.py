"""Analyses: pure functions from an SDE, or from paths, to numbers with a verdict each.

    found = analysis.along(run.model, paths, docs)
    print(found.findings[0].sentence())

Fields: `along`, `rotation`, `decompose`, `plane`, `energy`, `quasi_potential`, `stationary`.
Process: `order`, `autocorrelation`, `relaxation`, `stationarity`, `markov_order`, `residuals`,
`variation`, `passage`, `kramers_moyal`. Scales: `diffusive`, `jumps`, `coarse`.
Stability: `fixed_points`, `basins`, `lyapunov`, `learn_lyapunov`, `lipschitz`, `exponents`.
Moments: `moment_equations`, `moment_chain`, `moment_check`. Depth: `depth`.
"""

from ._basins import Basins as Basins
from ._basins import Euler as Euler
from ._basins import EulerMaruyama as EulerMaruyama
from ._basins import RungeKutta as RungeKutta
from ._basins import basins as basins
from ._correlation import Autocorrelation as Autocorrelation
from ._correlation import Relaxation as Relaxation
from ._correlation import autocorrelation as autocorrelation
from ._correlation import relaxation as relaxation
from ._decomposition import Decomposition as Decomposition
from ._decomposition import decompose as decompose
from ._depth import Depth as Depth
from ._depth import depth as depth
from ._depth_maps import depth_sample as depth_sample
from ._descent import LearnedFunction as LearnedFunction
from ._descent import LearnedLyapunov as LearnedLyapunov
from ._descent import learn_lyapunov as learn_lyapunov
from ._diffusive import Diffusive as Diffusive
from ._diffusive import Fairness as Fairness
from ._diffusive import Margins as Margins
from ._diffusive import Scale as Scale
from ._diffusive import diffusive as diffusive
from ._exact import clopper_pearson as clopper_pearson
from ._exponents import Spectrum as Spectrum
from ._exponents import exponents as exponents
from ._exponents import spectrum as spectrum
from ._fields import Along as Along
from ._fields import Rotation as Rotation
from ._fields import along as along
from ._fields import curl as curl
from ._fields import divergence as divergence
from ._fields import rotation as rotation
from ._fixed_points import FixedPoints as FixedPoints
from ._fixed_points import Sample as Sample
from ._fixed_points import fixed_points as fixed_points
from ._fixed_points import sample as sample
from ._generator import Lyapunov as Lyapunov
from ._generator import generator as generator
from ._generator import lyapunov as lyapunov
from ._generator import lyapunov_matrix as lyapunov_matrix
from ._jumps import JumpTest as JumpTest
from ._jumps import MixtureSize as MixtureSize
from ._jumps import jumps as jumps
from ._kramers_moyal import KramersMoyal as KramersMoyal
from ._kramers_moyal import kramers_moyal as kramers_moyal
from ._lipschitz import Certificate as Certificate
from ._lipschitz import Steepness as Steepness
from ._lipschitz import certified as certified
from ._lipschitz import certified_noise as certified_noise
from ._lipschitz import lipschitz as lipschitz
from ._markov import MarkovOrder as MarkovOrder
from ._markov import markov_order as markov_order
from ._moment_check import MomentCheck as MomentCheck
from ._moment_check import moment_check as moment_check
from ._moments import Moments as Moments
from ._moments import moment_chain as moment_chain
from ._moments import moment_equations as moment_equations
from ._moments import moment_starts as moment_starts
from ._order import Order as Order
from ._order import OrderTest as OrderTest
from ._order import order as order
from ._passage import Passage as Passage
from ._passage import kramers_rate as kramers_rate
from ._passage import mean_passage as mean_passage
from ._passage import passage as passage
from ._planes import Plane as Plane
from ._planes import Section as Section
from ._planes import plane as plane
from ._planes import principal_plane as principal_plane
from ._potential import Energy as Energy
from ._potential import QuasiPotential as QuasiPotential
from ._potential import energy as energy
from ._potential import quasi_potential as quasi_potential
from ._residuals import Residuals as Residuals
from ._residuals import residuals as residuals
from ._scales import coarse as coarse
from ._scales import sentence_means as sentence_means
from ._stationarity import Stationarity as Stationarity
from ._stationarity import stationarity as stationarity
from ._stationary import Stationary as Stationary
from ._stationary import stationary as stationary
from ._variation import Variation as Variation
from ._variation import variation as variation
from .findings import Finding as Finding
from .findings import Verdict as Verdict
