"""Losses: likelihoods of observed paths, and scores of simulated ones, as pure functions of a path.

loss = losses.each(losses.local_linear_nll)                        # of a batch of paths
loss = losses.simulated(losses.energy_score, simulate=dynlm.rollout, draws=16)
loss = losses.weighted((1.0, loss), (0.1, losses.each(losses.quadratic_variation)))
"""

from ._compose import Each as Each
from ._compose import Loss as Loss
from ._compose import Weighted as Weighted
from ._compose import each as each
from ._compose import weighted as weighted
from ._divergence import girsanov as girsanov
from ._kernels import kernel_score as kernel_score
from ._kernels import median_scale as median_scale
from ._kernels import mmd as mmd
from ._likelihood import TransitionNLL as TransitionNLL
from ._likelihood import local_linear_nll as local_linear_nll
from ._likelihood import nll_by as nll_by
from ._likelihood import strang_nll as strang_nll
from ._likelihood import transition_nll as transition_nll
from ._likelihood import transition_nlls as transition_nlls
from ._moments import autocovariance_distance as autocovariance_distance
from ._moments import marginal_distance as marginal_distance
from ._schemes import AbstractScheme as AbstractScheme
from ._schemes import EulerMaruyama as EulerMaruyama
from ._schemes import LocalLinear as LocalLinear
from ._schemes import LocalSkew as LocalSkew
from ._schemes import Strang as Strang
from ._scores import crps as crps
from ._scores import energy_score as energy_score
from ._scores import forecast_error as forecast_error
from ._scores import step_energy_score as step_energy_score
from ._simulated import Simulated as Simulated
from ._simulated import SimulatedSet as SimulatedSet
from ._simulated import continuation as continuation
from ._simulated import set_simulated as set_simulated
from ._simulated import simulated as simulated
from ._variation import quadratic_variation as quadratic_variation
from ._zhang import Zhang as Zhang
from ._zhang import zhang as zhang
from ._zhang import zhang_pair as zhang_pair
