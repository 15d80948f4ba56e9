"""calibrate: every surrogate block alone, on the teacher's own features (paper 3.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tocsr.data.images import PhotoCrops, batches
from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule, add_noise, draws
from tocsr.files import whole_file
from tocsr.models.compact import num_params, surrogate_library
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.surrogates import SurrogateStage, init_from_teacher_
from tocsr.models.vae import pixels_to_latents
from tocsr.models.variants import TEACHER, find_variant
from tocsr.processes import main_only
from tocsr.runs import phase, require_result
from tocsr.seeding import derive_seed
from tocsr.train.loop import fit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.data.images import Batch
    from tocsr.models.compact import CompactUNet
    from tocsr.models.stages import Stage
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.configs import CalibrateConfig

Record = dict[str, Tensor]  # port name -> features of the teacher


@torch.no_grad()
def teacher_features(
    teacher: CompactUNet, vae: Autoencoder, schedule: NoiseSchedule, batch: Batch, seed: int
) -> Record:
    """h_i and f_T of every stage i from one pass of the teacher, noise and timesteps by index."""
    clean = pixels_to_latents(vae, batch.images)
    noise, timestep = draws(schedule, clean, seed, batch.indices)
    record: Record = {}
    teacher(add_noise(schedule, clean, noise, timestep), timestep, record=record)
    return record


def stage_outputs(block: nn.Module, stage: Stage, record: Record) -> list[Tensor]:
    """f_k = B_i^k(h_i), h_i the teacher's own input to the stage, skips included (Eq. 7)."""
    inputs = [record[port.name] for port in stage.inputs]
    return block(inputs, record["time_embedding"], record.get("context"))


def feature_distillation_loss(outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
    """L_i^k = E || f_T - f_k ||^2, the mean over a stage's outputs, skips too (Eq. 8).

    Not in the paper: each output's error is divided by the power of the teacher's output, so that
    no stage and no output drowns another; 0 is the teacher, 1 is what an output of zeros gets.
    """
    errors = [
        (output.float() - target.float()).square().mean() / target.float().square().mean()
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(errors).mean()


def surrogate_losses(
    surrogates: Mapping[str, nn.Module], stages: Mapping[str, Stage], record: Record
) -> dict[str, Tensor]:
    """Eq. 8 of every surrogate, named `stage/variant`; their sum trains each one alone.

    No parameter is in two terms, so the sum's gradient is each term's own, and AdamW keeps
    parameters apart.
    """
    losses = {}
    for name, block in surrogates.items():
        stage = stages[name.split("/")[0]]
        targets = [record[port.name] for port in stage.outputs]
        losses[name] = feature_distillation_loss(stage_outputs(block, stage, record), targets)
    return {**losses, "loss": torch.stack(list(losses.values())).sum()}


def build_surrogates(teacher: CompactUNet, names: Mapping[str, list[str]]) -> dict[str, nn.Module]:
    """New surrogates of the given stages, started from the teacher's weights where they fit."""
    blocks: dict[str, nn.Module] = {}
    for stage in teacher.stage_table:
        for name in names.get(stage.name, []):
            if name != TEACHER:
                block = SurrogateStage(stage, find_variant(stage.kind, name), teacher.facts)
                init_from_teacher_(block, teacher.stages[stage.name])
                blocks[f"{stage.name}/{name}"] = block
    return blocks


@torch.no_grad()
def heldout_losses(
    config: CalibrateConfig,
    teacher: CompactUNet,
    vae: Autoencoder,
    surrogates: Mapping[str, nn.Module],
    device: torch.device,
) -> dict[str, float]:
    """Eq. 8 of every surrogate on crops of its own: other places in the photos, other noise."""
    stages = {stage.name: stage for stage in teacher.stage_table}
    seed, size = derive_seed(config.seed, "heldout"), min(config.num_heldout, 16)
    data = PhotoCrops(config.data, seed, config.num_heldout)
    sums: dict[str, float] = dict.fromkeys(surrogates, 0.0)
    num = config.num_heldout // size
    for batch in batches(data, size, range(num)):
        record = teacher_features(teacher, vae, NoiseSchedule(), batch.to(device), seed)
        losses = surrogate_losses(surrogates, stages, record)
        sums = {name: total + float(losses[name]) / num for name, total in sums.items()}
    return sums


@main_only
def _save_surrogate(run: Run, name: str, block: nn.Module) -> None:
    with whole_file(run.folder / "surrogates" / f"{name}.safetensors") as part:
        save_file({k: v.cpu().contiguous() for k, v in block.state_dict().items()}, part)


def _calibrate_group(
    config: CalibrateConfig,
    teacher: CompactUNet,
    vae: Autoencoder,
    names: Mapping[str, list[str]],
    run: Run,
    device: torch.device,
    report: Report,
) -> dict[str, Any]:
    """Trains the surrogates of a few stages together and saves each in a file of its own."""
    part = run.sub("-".join(names))
    if done := part.result():
        return done
    torch.manual_seed(derive_seed(config.seed, part.folder.name))
    surrogates = {k: block.to(device) for k, block in build_surrogates(teacher, names).items()}
    stages, schedule = {stage.name: stage for stage in teacher.stage_table}, NoiseSchedule()

    def loss(batch: Batch) -> dict[str, Tensor]:
        record = teacher_features(teacher, vae, schedule, batch, config.seed)
        return surrogate_losses(surrogates, stages, record)

    figures = fit(
        part,
        f"calibrate {part.folder.name}",
        surrogates,
        loss,
        data=config.data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
    )
    heldout = heldout_losses(config, teacher, vae, surrogates, device)
    rows = {}
    for name, block in surrogates.items():
        _save_surrogate(run, name, block)
        rows[name] = {"params": num_params(block), "heldout_loss": heldout[name]}
    return part.finish({"surrogates": rows, "seconds": figures["seconds"]})


@phase
def run(config: CalibrateConfig, run: Run, report: Report) -> dict[str, Any]:
    """Trains every surrogate of every stage; writes `surrogates/<stage>/<variant>.safetensors`."""
    require_result(config, "expand-unet")
    device = pick_device(config.device, config.num_threads)
    folder = config.runs / "expand-unet"
    teacher = load_unet(folder / "unet").to(device).requires_grad_(False)
    vae = load_vae(folder / "vae").to(device).requires_grad_(False)
    library = surrogate_library(teacher, config.local_only)
    stages = list(library)
    groups = [
        {name: library[name] for name in stages[i : i + config.stages_per_group]}
        for i in range(0, len(stages), config.stages_per_group)
    ]
    results = [
        _calibrate_group(config, teacher, vae, group, run, device, report) for group in groups
    ]
    surrogates = {name: row for result in results for name, row in result["surrogates"].items()}
    return {
        "library": library,
        "surrogates": surrogates,
        "loss": sum(row["heldout_loss"] for row in surrogates.values()) / max(len(surrogates), 1),
        "seconds": sum(result["seconds"] for result in results),
    }
