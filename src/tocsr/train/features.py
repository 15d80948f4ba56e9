"""The teacher's features, captured once for every surrogate, and how far a block is from them.

Legend: B batch; what a stage takes and gives has the shapes of its ports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.data.images import Batch, PhotoCrops, batches
from tocsr.diffusion import NoiseSchedule, add_noise, draws
from tocsr.models.vae import pixels_to_latents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.config import DataConfig
    from tocsr.models.compact import CompactUNet
    from tocsr.models.stages import Port, Stage
    from tocsr.models.vae import Autoencoder

Record = dict[str, Tensor]  # port name, `time_embedding` or `context` -> what the teacher had there
Features = Callable[[Batch, int], Record]  # of a batch, its noise and timesteps drawn by a seed
_MOST_MEASURED_AT_ONCE = 16  # crops; the batch of a measurement divides their number


@torch.no_grad()
def teacher_features(teacher: CompactUNet, vae: Autoencoder, batch: Batch, seed: int) -> Record:
    """h_i and f_T of every stage i, skips too, from one pass of the teacher.

    Args:
        teacher: The expanded U-Net.
        vae: Its autoencoder, on the same device.
        batch: Images in [-1, 1].
        seed: Noise and timesteps are functions of it and the sample's index.
    """
    schedule = NoiseSchedule()
    clean = pixels_to_latents(vae, batch.images)
    noise, timestep = draws(schedule, clean, seed, batch.indices)
    record: Record = {}
    teacher(add_noise(schedule, clean, noise, timestep), timestep, record=record)
    return record


def stage_outputs(block: nn.Module, stage: Stage, record: Record) -> list[Tensor]:
    """f_k = B_i^k(h_i), h_i the teacher's own input to the stage, skips included (Eq. 7)."""
    inputs = [record[port.name] for port in stage.inputs]
    return block(inputs, record["time_embedding"], record.get("context"))


def feature_distillation_losses(outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
    """L_i^k = E || f_T - f_k ||^2 for each output of the stage, skips too (Eq. 8).

    Their mean is what a surrogate is trained on. Not in the paper: each output's error is divided
    by the power of the teacher's output, so that no stage and no output drowns another; 0 is the
    teacher, 1 is what an output of zeros gets.

    Shape:
        (outputs of the stage,), float32, at least 0.
    """
    errors = [
        (output.float() - target.float()).square().mean() / target.float().square().mean()
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(errors)


def stage_losses(block: nn.Module, stage: Stage, record: Record) -> Tensor:
    """Eq. 8 of a block on the teacher's own input to its stage, for each output of the stage."""
    targets = [record[port.name] for port in stage.outputs]
    return feature_distillation_losses(stage_outputs(block, stage, record), targets)


class LeftOut(nn.Module):
    """A stage left out: its features go through, resized; channels are cut or filled with zeros.

    Not in the paper: a surrogate that is no nearer to the teacher than this is worth nothing.

    Shape:
        As the stage declares.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(
        self, inputs: list[Tensor], time_embedding: Tensor, context: Tensor | None
    ) -> list[Tensor]:
        """The first input in the shape of every output."""
        source = self.stage.inputs[0]
        return [_passed_on(inputs[0], source, port) for port in self.stage.outputs]


def _passed_on(x: Tensor, source: Port, target: Port) -> Tensor:
    """A tensor of one port in the shape of another: averaged or repeated, then cut or filled."""
    if target.stride > source.stride:
        x = F.avg_pool2d(x, target.stride // source.stride)
    elif target.stride < source.stride:
        x = F.interpolate(x, scale_factor=float(source.stride // target.stride), mode="nearest")
    missing = max(target.channels - source.channels, 0)
    return F.pad(x[:, : target.channels], (0, 0, 0, 0, 0, missing))


@torch.no_grad()
def measured_losses(
    blocks: Mapping[str, nn.Module],
    stages: Mapping[str, Stage],
    features: Features,
    data: DataConfig,
    num_crops: int,
    seed: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Eq. 8 of each block and each output of its stage, on crops drawn by a seed.

    Args:
        blocks: `stage/anything` -> a block.
        stages: Stage name -> stage.
        features: The teacher's, one pass for all blocks.
        data: Photos.
        num_crops: Crops that a loss is the mean over.
        seed: Of crops, noise and timesteps.
        device: Where blocks and teacher are.

    Returns:
        Name of the block -> name of the output's port -> loss.
    """
    size = max(n for n in range(1, _MOST_MEASURED_AT_ONCE + 1) if num_crops % n == 0)
    num = num_crops // size
    sums: dict[str, Tensor] = {}
    for batch in batches(PhotoCrops(data, seed, num_crops), size, range(num)):
        record = features(batch.to(device), seed)
        for name, block in blocks.items():
            losses = stage_losses(block, stages[name.split("/")[0]], record) / num
            sums[name] = sums[name] + losses if name in sums else losses
    ports = {name: [port.name for port in stage.outputs] for name, stage in stages.items()}
    return {
        name: dict(zip(ports[name.split("/")[0]], losses.tolist(), strict=True))
        for name, losses in sums.items()
    }
