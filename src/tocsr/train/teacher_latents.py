"""The teacher autoencoder's latents of a batch, computed, or cached photo by photo (Eq. 2)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tocsr.data.images import to_tensor
from tocsr.data.sources import list_photos, read_photo
from tocsr.files import whole_file
from tocsr.models.vae import LATENT_STRIDE, pixels_to_latents

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.config import DataConfig
    from tocsr.data.images import Batch, Place
    from tocsr.models.vae import Autoencoder
    from tocsr.train.configs import ExpandUnetConfig, ExpandVaeConfig


def fingerprint(vae: Autoencoder) -> str:
    """A digest of an autoencoder's settings and weights."""
    digest = hashlib.sha256(repr(sorted(vae.config.items(), key=str)).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


class TeacherLatents:
    """E_T(x) of a batch, scaled, without gradients (Eq. 2).

    Args:
        teacher: E_T.

    Shape:
        a batch of B crops -> (B, Z, crop / 8, crop / 8), float32.
    """

    def __init__(self, teacher: Autoencoder) -> None:
        self.teacher = teacher

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """E_T(x) of the batch's crops."""
        return pixels_to_latents(self.teacher, batch.images)


class CachedTeacherLatents(TeacherLatents):
    """The same from whole photos, each encoded once and kept as float16.

    A crop's latents are cut out of its photo's, so that near its edges the teacher has seen what
    lies beyond them. A mirrored photo is encoded anew, since an encoder does not mirror what it
    gives. A photo that changes under its name keeps its old latents: remove the folder then.

    Args:
        teacher: E_T.
        folder: Of the cache; each teacher has a folder of its own in it.
        data: The photos; its crops must begin at multiples of 8 pixels.
    """

    def __init__(self, teacher: Autoencoder, folder: Path, data: DataConfig) -> None:
        super().__init__(teacher)
        self.folder = folder / fingerprint(teacher)
        self.side = data.crop // LATENT_STRIDE
        self.photos = {
            str(photo): photo
            for source in data.sources
            for photo in list_photos(source, data.fraction)
        }

    def __call__(self, batch: Batch) -> Tensor:
        """E_T(x) of the photos that the crops were cut from, cut likewise."""
        latents = [self._latent(place, batch.images.device) for place in batch.places]
        return torch.stack(latents).to(batch.images)

    def _latent(self, place: Place, device: torch.device) -> Tensor:
        key = hashlib.sha256(f"{place.file} {place.mirrored}".encode()).hexdigest()[:24]
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            self._encode(place, path, device)
        with safe_open(path, "pt") as file:
            stored = file.get_slice("latent")
            width = stored.get_shape()[-1]
            top, left = place.top // LATENT_STRIDE, place.left // LATENT_STRIDE
            if place.mirrored:
                left = width - left - self.side
            return stored[:, top : top + self.side, left : left + self.side].float()

    @torch.no_grad()
    def _encode(self, place: Place, path: Path, device: torch.device) -> None:
        photo = read_photo(self.photos[place.file])
        height, width = (n // LATENT_STRIDE * LATENT_STRIDE for n in photo.shape[:2])
        photo = photo[:height, :width]
        if place.mirrored:
            photo = photo[:, ::-1]
        image = to_tensor(np.ascontiguousarray(photo)).to(device)
        latent = pixels_to_latents(self.teacher, image[None])[0]
        with whole_file(path) as part:
            save_file({"latent": latent.half().cpu().contiguous()}, part)


def teacher_latents(
    config: ExpandVaeConfig | ExpandUnetConfig, teacher: Autoencoder
) -> tuple[TeacherLatents, DataConfig]:
    """The teacher's latents as a phase's settings want them, and the data to train on.

    With a cache the crops begin on the grid of latents.
    """
    if not config.cache_teacher:
        return TeacherLatents(teacher), config.data
    data = replace(config.data, align=math.lcm(config.data.align, LATENT_STRIDE))
    return CachedTeacherLatents(teacher, config.runs / "teacher-latents", data), data
