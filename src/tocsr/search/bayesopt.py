"""Constrained Bayesian optimisation over decision vectors (Eqs. 9, 10, 13, 14, 15).

A candidate a = (a_1 .. a_N) picks one variant per stage; 0 is the teacher's own block. Its cost
P(a) is a sum of table entries, known exactly, so nothing is fitted to it. Its gap F(a) (Eq. 11)
is expensive, exact and at least 0: a Gaussian process stands in for it. Feasible means
`gap <= tolerance`.

Legend: `M` candidates, `N` stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from botorch.exceptions import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import MixedSingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from tocsr.errors import TocsrError
from tocsr.seeding import derive_seed, numpy_rng

if TYPE_CHECKING:
    from collections.abc import Sequence

Candidate: TypeAlias = tuple[int, ...]
Observations: TypeAlias = Mapping[Candidate, float]  # candidate -> gap, in the order of observing
MAX_CANDIDATES = 2_000_000
_ROWS = 4096  # candidates predicted at a time
_MAX_FIT_ITERATIONS = 50


@dataclass(frozen=True)
class SearchSpace:
    """The architectures to choose from (Eq. 9) and what each costs (Eq. 10).

    Args:
        costs: `costs[i][k]` is the cost of variant k in stage i, in any unit (parameters, MACs).
        choices: The variants each stage may take, ascending; empty means all of them.

    Raises:
        TocsrError: A cost is negative or not finite, or the choices do not fit the costs.
    """

    costs: tuple[tuple[float, ...], ...]
    choices: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.choices:
            object.__setattr__(self, "choices", tuple(tuple(range(len(t))) for t in self.costs))
        if not self.costs or len(self.choices) != len(self.costs):
            raise TocsrError(
                "a search space has choices for each of its stages, at least one, "
                f"got {len(self.choices)} for {len(self.costs)} stages"
            )
        for stage, (table, allowed) in enumerate(zip(self.costs, self.choices, strict=True)):
            if not all(math.isfinite(cost) and cost >= 0 for cost in table):
                raise TocsrError(f"costs must be finite and at least 0, stage {stage} has {table}")
            if not allowed or list(allowed) != [k for k in range(len(table)) if k in allowed]:
                raise TocsrError(
                    f"choices of stage {stage} must be some of 0..{len(table) - 1}, each once "
                    f"and ascending, got {allowed}"
                )

    def __contains__(self, candidate: Candidate) -> bool:
        return len(candidate) == len(self.choices) and all(
            choice in allowed for choice, allowed in zip(candidate, self.choices, strict=True)
        )

    @property
    def num_candidates(self) -> int:
        """How many candidates there are."""
        return math.prod(len(allowed) for allowed in self.choices)

    def all_candidates(self) -> Tensor:
        """Every candidate once.

        Returns:
            Shape (M, N), int64.

        Raises:
            TocsrError: They are too many to enumerate.
        """
        if self.num_candidates > MAX_CANDIDATES:
            raise TocsrError(
                f"a search space holds at most {MAX_CANDIDATES:,} candidates to be enumerated, "
                f"this one has {self.num_candidates:,}",
                "allow fewer variants per stage, first those that cost more and lose more",
            )
        columns = [torch.tensor(allowed) for allowed in self.choices]
        return torch.cartesian_prod(*columns).reshape(-1, len(columns))  # one stage: (M,)

    def costs_of(self, candidates: Tensor) -> Tensor:
        """P(a) = sum_i params(B_i^{a_i}) (Eq. 10).

        The stages are added in order, so a candidate costs the same to the last bit in any batch.

        Args:
            candidates: Shape (M, N), int64.

        Returns:
            Shape (M,), float64.
        """
        total = torch.zeros(len(candidates), dtype=torch.float64)
        for table, choice in zip(self.costs, candidates.T, strict=True):
            total += torch.tensor(table, dtype=torch.float64)[choice]
        return total

    def cost(self, candidate: Candidate) -> float:
        """P(a) of one candidate (Eq. 10)."""
        return float(self.costs_of(torch.tensor([candidate]))[0])


def cheapest_feasible(
    space: SearchSpace, observations: Observations, tolerance: float
) -> Candidate | None:
    """The observed candidate of lowest cost with gap <= tolerance (Eqs. 13, 14), if any.

    Of equal costs the smaller gap wins.
    """
    feasible = [candidate for candidate, gap in observations.items() if gap <= tolerance]
    return min(feasible, key=lambda a: (space.cost(a), observations[a], a), default=None)


def initial_candidates(space: SearchSpace, num: int, seed: int) -> list[Candidate]:
    """Where a search starts: `num` different candidates, or all of a smaller space.

    First the two ends, the all-teacher candidate (gap 0, so there is a feasible one; left out
    where the choices exclude it) and the cheapest. Then a Latin design: within it every stage
    shows each of its variants equally often, in random order.
    """
    teacher = (0,) * len(space.costs)
    cheapest = tuple(
        min(allowed, key=lambda k: (table[k], k))
        for table, allowed in zip(space.costs, space.choices, strict=True)
    )
    found = dict.fromkeys([teacher, cheapest] if teacher in space else [cheapest])
    rng = numpy_rng(seed, "initial candidates")
    while (missing := min(num, space.num_candidates) - len(found)) > 0:
        columns = []
        for allowed in space.choices:
            variants = rng.permutation(allowed)
            repeats = -(-missing // len(variants))
            columns.append(rng.permutation(variants.repeat(repeats)[:missing]).tolist())
        found.update(dict.fromkeys(zip(*columns, strict=True)))
    return list(found)[:num]


def _features(space: SearchSpace, candidates: Tensor) -> Tensor:
    """What the process sees of a candidate.

    Args:
        space: Gives the cost tables.
        candidates: Shape (M, N), int64.

    Returns:
        Shape (M, 2N), float64: per stage its cost over the stage's largest, in [0, 1], which
        orders the variants; then per stage the variant, which tells equal costs apart.
    """
    relative = []
    for table, choice in zip(space.costs, candidates.T, strict=True):
        relative.append(torch.tensor(table, dtype=torch.float64)[choice] / (max(table) or 1.0))
    return torch.cat([torch.stack(relative, 1), candidates.double()], 1)


def fit_gp(space: SearchSpace, observations: Observations) -> MixedSingleTaskGP:
    """A Gaussian process of sqrt(gap), in float64.

    The root, because a gap is a mean square: under the root the teacher's exact 0 is an ordinary
    point, while under a logarithm it is an outlier that ruins the fit. Dividing by the tolerance,
    sqrt(gap / tolerance) - 1, would change nothing: the outcome is standardised, so shift and
    scale drop out and one process serves every tolerance.

    Few iterations of the fit are enough; more overfit the kernel's many length scales. A fit
    that fails keeps the hyperparameters it started from.

    Args:
        space: The candidates and their costs.
        observations: At least one.
    """
    num_stages = len(space.costs)
    gaps = torch.tensor(list(observations.values()), dtype=torch.float64)
    gp = MixedSingleTaskGP(
        _features(space, torch.tensor(list(observations))),
        gaps.sqrt().unsqueeze(-1),
        cat_dims=list(range(num_stages, 2 * num_stages)),
    )
    mll = ExactMarginalLogLikelihood(gp.likelihood, gp)
    try:
        fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": _MAX_FIT_ITERATIONS}})
    except ModelFittingError:
        mll.eval()  # botorch has rolled the hyperparameters back
    return gp


@torch.no_grad()
def root_gap(
    space: SearchSpace, gp: MixedSingleTaskGP, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of sqrt(gap), by the textbook formula.

    The same numbers as `gp.posterior`, one candidate at a time, but six times faster: that one
    also computes, or broadcasts over, covariances that nobody reads.

    Args:
        space: Gives the cost tables.
        gp: The process of sqrt(gap), fitted.
        candidates: Shape (M, N), int64.

    Returns:
        Two tensors of shape (M,), float64.
    """
    train = gp.train_inputs[0]
    prior = gp.covar_module(train).to_dense()
    root = torch.linalg.cholesky(prior + gp.likelihood.noise * torch.eye(len(train)))
    residual = (gp.train_targets - gp.mean_module(train)).unsqueeze(-1)
    weights = torch.cholesky_solve(residual, root).squeeze(-1)
    means, variances = [], []
    for rows in candidates.split(_ROWS):
        features = _features(space, rows)
        cross = gp.covar_module(train, features).to_dense()  # (observations, rows)
        explained = torch.linalg.solve_triangular(root, cross, upper=False).square().sum(0)
        means.append(gp.mean_module(features) + weights @ cross)
        variances.append((prior[0, 0] - explained).clamp_min(1e-10))  # stationary: one variance
    shift, scale = gp.outcome_transform.means.squeeze(), gp.outcome_transform.stdvs.squeeze()
    return shift + scale * torch.cat(means), scale * torch.cat(variances).sqrt()


def acquisition(
    space: SearchSpace,
    gp: MixedSingleTaskGP,
    candidates: Tensor,
    best_cost: float | None,
    tolerance: float,
) -> Tensor:
    """log(best_cost - P(a)) + log Pr[sqrt(F(a)) <= sqrt(tolerance)] (for Eqs. 13, 14).

    The logarithm of the expected improvement under a constraint (Gardner et al. 2014), whose
    improvement is certain here because the cost is known. Higher is better.

    Args:
        space: Gives the costs.
        gp: The process of sqrt(gap).
        candidates: Shape (M, N), int64.
        best_cost: Cost of the cheapest feasible candidate known; without one (None) the
            probability alone counts.
        tolerance: The largest gap that is feasible.

    Returns:
        Shape (M,), float64; -inf where a candidate is not cheaper than `best_cost`.
    """
    mean, std = root_gap(space, gp, candidates)
    log_feasible = torch.special.log_ndtr((math.sqrt(tolerance) - mean) / std)
    if best_cost is None:
        return log_feasible
    return log_feasible + (best_cost - space.costs_of(candidates)).clamp_min(0).log()


def propose(
    space: SearchSpace, observations: Observations, tolerance: float, seed: int
) -> Candidate | None:
    """The candidate to observe next, a function of the arguments alone.

    Args:
        space: The candidates and their costs.
        observations: At least one.
        tolerance: The largest gap that is feasible.
        seed: Of the restarts that a difficult fit makes.

    Returns:
        The unobserved candidate, cheaper than the cheapest feasible one, of highest acquisition;
        None when all of those are observed.
    """
    candidates = space.all_candidates()
    observed = torch.tensor(list(observations))
    radix = torch.tensor([len(table) for table in space.costs])
    digits = radix.flip(0).cumprod(0).flip(0) // radix  # a candidate as one whole number
    is_open = ~torch.isin(candidates @ digits, observed @ digits)
    best = cheapest_feasible(space, observations, tolerance)
    best_cost = None if best is None else space.cost(best)
    if best_cost is not None:
        is_open &= space.costs_of(candidates) < best_cost
    candidates = candidates[is_open]
    if not len(candidates):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gp = fit_gp(space, observations)
    best_row = acquisition(space, gp, candidates, best_cost, tolerance).argmax()
    return tuple(candidates[best_row].tolist())


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        observations: Gap of every candidate, in the order of observing.
        winners: Per tolerance the cheapest feasible of all observations, None without one.
    """

    observations: dict[Candidate, float]
    winners: dict[float, Candidate | None]


def optimize(
    space: SearchSpace,
    evaluate: Callable[[Candidate], float],
    tolerances: Sequence[float],
    num_initial: int,
    num_iterations: int,
    seed: int,
    observations: Observations | None = None,
    choose: Callable[[SearchSpace, Observations, float, int], Candidate | None] = propose,
) -> SearchResult:
    """One optimisation per tolerance, all sharing their observations (Eq. 15).

    A killed search goes on when given what it had observed: the same sequence is walked again,
    every process fitted to what was known at that moment, and a known gap is looked up instead
    of evaluated. So `initial_candidates` may also be evaluated beforehand, in parallel.

    Args:
        space: The candidates and their costs.
        evaluate: The gap F(a) (Eq. 11): finite, at least 0. Called once per new candidate.
        tolerances: In the order to search them.
        num_initial: Candidates of the start design, at least 1.
        num_iterations: Proposals per tolerance; fewer when no cheaper candidate is left.
        seed: Of the start design and the proposals.
        observations: Gaps known from before.
        choose: What proposes; called with (space, observations, tolerance, seed).

    Raises:
        TocsrError: A tolerance or a gap is negative or not finite, or nothing is to be observed.
    """
    if num_initial < 1:
        raise TocsrError(f"a search needs at least 1 initial candidate, got {num_initial}")
    if not all(math.isfinite(tolerance) and tolerance >= 0 for tolerance in tolerances):
        raise TocsrError(f"tolerances must be finite and at least 0, got {list(tolerances)}")
    space.all_candidates()  # a space too large fails now, not after the start design
    known = {a: gap for a, gap in (observations or {}).items() if a in space}
    seen: dict[Candidate, float] = {}

    def observe(candidate: Candidate) -> None:
        if candidate in seen:
            return
        gap = known[candidate] if candidate in known else evaluate(candidate)
        if not (math.isfinite(gap) and gap >= 0):
            raise TocsrError(f"a gap must be finite and at least 0, {candidate} has {gap}")
        seen[candidate] = gap

    for candidate in initial_candidates(space, num_initial, seed):
        observe(candidate)
    for run, tolerance in enumerate(tolerances):
        for iteration in range(num_iterations):
            step = run * num_iterations + iteration
            proposal = choose(space, seen, tolerance, derive_seed(seed, "propose", step))
            if proposal is None:
                break
            observe(proposal)
    seen |= {a: gap for a, gap in known.items() if a not in seen}  # paid for, so they may win
    return SearchResult(seen, {t: cheapest_feasible(space, seen, t) for t in tolerances})
