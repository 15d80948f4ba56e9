"""finetune: the selected compact U-Net, end to end, with the diffusion loss (Eq. 16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule
from tocsr.models.folders import load_unet, load_vae
from tocsr.runs import phase, require_result
from tocsr.train.loop import fit
from tocsr.train.pretrain import latent_denoising_loss

if TYPE_CHECKING:
    from tocsr.runs import Report, Run
    from tocsr.train.configs import FinetuneConfig


@phase
def run(config: FinetuneConfig, run: Run, report: Report) -> dict[str, Any]:
    """Trains the selected U-Net on the expanded autoencoder's latents; writes `unet/`."""
    require_result(config, "select")
    device = pick_device(config.device, config.num_threads)
    unet = load_unet(config.runs / "select" / "unet").to(device)
    vae = load_vae(config.runs / "expand-unet" / "vae").to(device).requires_grad_(False)
    schedule = NoiseSchedule()
    figures = fit(
        run,
        config.verb,
        {"unet": unet},
        lambda batch: {"loss": latent_denoising_loss(unet, vae, schedule, batch, config.seed)},
        data=config.data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
    )
    run.save(unet, "unet")
    return figures
