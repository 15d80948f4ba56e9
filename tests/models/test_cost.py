import pytest
import torch
from torch import nn

from tocsr.models.cost import autoencoder_costs, count_macs, pipeline_costs, stage_params, unet_cost
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.vae import widened


def test_a_convolution_costs_what_its_shapes_say():
    conv = nn.Conv2d(3, 8, 3, padding=1, device="meta")
    x = torch.empty(2, 3, 10, 10, device="meta")
    assert count_macs(lambda: conv(x)) == 2 * 8 * 10 * 10 * 3 * 9


def test_attention_products_are_counted():
    q = torch.empty(1, 2, 16, 8, device="meta")
    macs = count_macs(lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert macs == 2 * (16 * 16 * 8) * 2  # two heads, Q K^T and A V


@pytest.mark.parametrize(
    ("settings", "macs_g"),
    [({}, 401.6), ({"latent_channels": 16}, 401.9)],
    ids=["4 channels", "16 channels"],
)
def test_sd_unet_costs_the_gmacs_of_the_specification(settings, macs_g):
    with torch.device("meta"):
        unet = base_unet("paper", **settings)
    assert unet_cost(unet, 512).macs_g == pytest.approx(macs_g, rel=0.005)


@pytest.mark.parametrize(
    ("channels", "encoder", "decoder"),
    [(4, (34.16, 558.3), (49.49, 1257.3)), (16, (34.27, 558.8), (49.55, 1257.5))],
)
def test_sd_autoencoder_costs_what_the_specification_says(channels, encoder, decoder):
    with torch.device("meta"):
        vae = base_vae("paper", "vae")
        if channels == 16:
            vae = widened(vae, base_vae("paper", "vae_teacher"))
    for cost, (params_m, macs_g) in zip(
        autoencoder_costs(vae, 512), (encoder, decoder), strict=True
    ):
        assert cost.params / 1e6 == pytest.approx(params_m, abs=0.006)
        assert cost.macs_g == pytest.approx(macs_g, rel=0.005)


def test_the_stages_of_sd_add_up():
    with torch.device("meta"):
        unet = base_unet("paper")
    assert sum(stage_params(unet).values()) == 859_520_964


def test_the_whole_is_the_sum_of_encoder_unet_and_decoder():
    with torch.device("meta"):
        costs = pipeline_costs(base_vae("tiny", "vae"), base_unet("tiny"), 512)
    assert costs[-1].macs == sum(cost.macs for cost in costs[:-1])
    assert [cost.part for cost in costs] == ["encoder", "unet", "decoder", "whole"]
