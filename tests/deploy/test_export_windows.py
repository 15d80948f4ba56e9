import pytest
import torch
from micro import MICRO

from tocsr.deploy import export
from tocsr.deploy.configs import ExportConfig
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import GeneratorFacts, OneStepGenerator
from tocsr.models.vae import LATENT_STRIDE

WINDOWED = {
    "E1": "r1-full-self16-full",
    "E2": "r1-full-self16-full",
    "E3": "r2-full-inner2-full",
    "B": "r1-full-inner4-separable",
    "D3": "r1-full-self16-separable",
    "D2": "r0-full-pointwise",
    "D1": "r1-full-self16-separable",
}


@pytest.fixture
def windowed(tmp_path):
    """The folder of a finished model whose attention stays in windows, every part with effect."""
    torch.manual_seed(0)
    unet = base_unet(
        str(MICRO), condition_channels=4, prediction="clean", variants=WINDOWED
    ).requires_grad_(False)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    multiple = LATENT_STRIDE * unet.size_multiple
    facts = GeneratorFacts(
        upscale=4,
        degradation="bicubic",
        latent_channels=4,
        pixel_multiple=multiple,
        halo=2 * multiple,
        local=unet.is_local,
        prediction="clean",
        timestep=999,
    )
    OneStepGenerator(base_vae(str(MICRO), "vae"), unet, facts).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_windows_are_exported_for_every_size(windowed, tmp_path):
    # run compares the graph with PyTorch at a size that the export did not see
    result = export.run(ExportConfig(model=windowed, output=tmp_path / "exported"))
    assert result["largest_difference"]["onnx"] < 1e-5
