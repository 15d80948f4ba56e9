"""The Gaussian process that stands in for the gap F(a) (Eq. 11).

Legend: `M` candidates, `N` stages, `n` observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from botorch.exceptions import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.kernels import CategoricalKernel
from botorch.utils.constraints import LogTransformedInterval
from gpytorch.kernels import ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.search.additive import AdditiveGap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.search.space import Candidate, Observations, SearchSpace

_MAX_FIT_ITERATIONS = 25
_ROWS = 8192  # candidates predicted at a time
_LEAST_GAP = 1e-12  # of a candidate whose choices each add nothing
_LEAST_VARIANCE = 1e-10  # in units of the process; rounding makes smaller ones negative


def factors(additive: AdditiveGap, observations: Observations) -> dict[Candidate, float]:
    """sqrt(F(a) / S(a)) of what was observed: how wrong the sum of single swaps is.

    Of the single swaps themselves it is 1, unless one lessens the gap. Where the sum is 0 it is 1.
    """
    sums = additive.of(torch.tensor(list(observations))).tolist()
    return {
        candidate: math.sqrt(gap / total) if total > 0 else 1.0
        for (candidate, gap), total in zip(observations.items(), sums, strict=True)
    }


def fit_gp(space: SearchSpace, outcomes: Mapping[Candidate, float]) -> SingleTaskGP:
    """A Gaussian process over the choices, in float64.

    The kernel is `exp(-mean_i [a_i != b_i] / length_i)`: candidates are alike as far as they choose
    alike, and each stage has a length of its own, so that stages that hardly matter soon stop
    mattering.

    A fit that fails keeps the hyperparameters it started from.

    Args:
        space: The candidates.
        outcomes: At least one; standardised for the fit.
    """
    values = torch.tensor(list(outcomes.values()), dtype=torch.float64)
    kernel = CategoricalKernel(
        ard_num_dims=len(space.costs),
        lengthscale_prior=LogNormalPrior(0.0, 1.0),
        lengthscale_constraint=LogTransformedInterval(0.02, 1000, initial_value=1.0),
    )
    scaled = ScaleKernel(
        kernel,
        outputscale_prior=LogNormalPrior(0.0, 2.0),
        outputscale_constraint=LogTransformedInterval(1e-4, 1e4, initial_value=1.0),
    )
    gp = SingleTaskGP(
        torch.tensor(list(outcomes), dtype=torch.float64),
        values.unsqueeze(-1),
        covar_module=scaled,
    )
    mll = ExactMarginalLogLikelihood(gp.likelihood, gp)
    try:
        fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": _MAX_FIT_ITERATIONS}})
    except ModelFittingError:
        mll.eval()  # botorch has rolled the hyperparameters back
    return gp


@dataclass(frozen=True)
class RootGap:
    """What a fitted process says of sqrt(gap), by the textbook formula.

    The gap is S(a), the sum of its single swaps, times the square of a factor near 1; the factor is
    a Gaussian process. The factor has a root, because a gap is a mean square, and no tolerance in
    it, so that one process serves all of them.

    The same numbers as the marginals of `gp.posterior(..., observation_noise=True)`, but of tens
    of thousands of candidates in a tenth of a second: that one also computes, or broadcasts over,
    covariances that nobody reads. The noise belongs to it, because a gap is exact: noise is what
    the kernel cannot explain of it.

    Args:
        additive: S(a).
        num_variants: Per stage.
        nearness: Weight of a choice in common, `1 / (N length_i)` per stage, shape (N,).
        signal: Variance of the process.
        noise: Variance of the noise.
        mean: Of the process before any observation.
        shift: Of the factor.
        scale: Of the factor.
        observed: Candidates, shape (n, N), int64.
        residual: Their outcomes less the mean, shape (n,).
    """

    additive: AdditiveGap
    num_variants: tuple[int, ...]
    nearness: Tensor
    signal: float
    noise: float
    mean: float
    shift: float
    scale: float
    observed: Tensor
    residual: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, space: SearchSpace, additive: AdditiveGap, gp: SingleTaskGP) -> RootGap:
        """Reads the process that `fit_gp` has fitted."""
        kernel, outcome = gp.covar_module, gp.outcome_transform
        mean = gp.mean_module.constant
        return cls(
            additive=additive,
            num_variants=tuple(len(table) for table in space.costs),
            nearness=1 / (len(space.costs) * kernel.base_kernel.lengthscale.squeeze(0)),
            signal=float(kernel.outputscale),
            noise=float(gp.likelihood.noise),
            mean=float(mean),
            shift=float(outcome.means.squeeze()),
            scale=float(outcome.stdvs.squeeze()),
            observed=gp.train_inputs[0].long(),
            residual=gp.train_targets - mean,
        )

    def _one_hot(self, candidates: Tensor) -> Tensor:
        """(M, sum of variants), float64: 1 where a candidate takes a variant."""
        columns = zip(candidates.T, self.num_variants, strict=True)
        return torch.cat([F.one_hot(column, num) for column, num in columns], 1).double()

    def _covariance(self, first: Tensor, second: Tensor) -> Tensor:
        """The kernel between candidates, shapes (n, N) and (M, N), as (n, M)."""
        weights = self.nearness.repeat_interleave(torch.tensor(self.num_variants))
        common = (self._one_hot(first) * weights) @ self._one_hot(second).T
        return common.sub_(self.nearness.sum()).exp_().mul_(self.signal)

    @cached_property
    def _solved(self) -> tuple[Tensor, Tensor]:
        """The Cholesky root (n, n) of the observations' covariance, and its solution (n,)."""
        prior = self._covariance(self.observed, self.observed)
        root = torch.linalg.cholesky(prior + self.noise * torch.eye(len(prior)))
        return root, torch.cholesky_solve(self.residual.unsqueeze(-1), root).squeeze(-1)

    def predict(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of sqrt(gap).

        Args:
            candidates: Shape (M, N), int64.

        Returns:
            Two tensors of shape (M,), float64.
        """
        mean, std = self.factor(candidates)
        root = self.additive.of(candidates).clamp_min(_LEAST_GAP).sqrt()
        return root * mean, root * std

    def factor(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of sqrt(F(a) / S(a)); arguments and result as `predict`."""
        root, weights = self._solved
        means, variances = [candidates.new_empty(0).double()], [candidates.new_empty(0).double()]
        for rows in candidates.split(_ROWS):
            cross = self._covariance(self.observed, rows)
            explained = torch.linalg.solve_triangular(root, cross, upper=False).square_().sum(0)
            means.append(self.mean + weights @ cross)
            variances.append(self.signal + self.noise - explained)
        std = torch.cat(variances).clamp_min(_LEAST_VARIANCE).sqrt()
        return self.shift + self.scale * torch.cat(means), self.scale * std

    def believing(self, candidate: Candidate) -> RootGap:
        """The process once `candidate` had been observed just as it expects.

        Its mean stays what it is everywhere; it grows certain near the candidate, so that the next
        proposal goes elsewhere (the Kriging believer of Ginsbourger et al. 2010).
        """
        row = torch.tensor([candidate])
        expected = (self.factor(row)[0] - self.shift) / self.scale - self.mean
        return replace(
            self,
            observed=torch.cat([self.observed, row]),
            residual=torch.cat([self.residual, expected]),
        )


def root_gap_process(space: SearchSpace, observations: Observations, seed: int) -> RootGap:
    """The process fitted to what was observed, a function of the arguments alone.

    Args:
        space: The candidates.
        observations: With those of all single swaps.
        seed: Of the restarts that a difficult fit makes.
    """
    additive = AdditiveGap.observed(space, observations)
    outcomes = factors(additive, observations)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RootGap.of(space, additive, fit_gp(space, outcomes))


def log_probability(process: RootGap, candidates: Tensor, tolerance: float) -> Tensor:
    """The logarithm of Pr[sqrt(F(a)) <= sqrt(tolerance)], shape (M,), of candidates (M, N)."""
    mean, std = process.predict(candidates)
    return torch.special.log_ndtr((math.sqrt(tolerance) - mean) / std)
