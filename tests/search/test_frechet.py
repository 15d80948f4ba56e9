import math

import pytest
import torch
from micro import MICRO

from tocsr.models.folders import base_unet, base_vae
from tocsr.models.frechet import Moments
from tocsr.models.frechet import frechet_distance as distance_of_moments
from tocsr.search.frechet import frechet_distance, sample_features


def test_the_distance_is_that_of_the_samples_moments():
    one, other = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0))
    expected = distance_of_moments(Moments(4).add_(one), Moments(4).add_(other))
    assert frechet_distance(one, other) == expected


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return base_unet(str(MICRO)).eval(), base_vae(str(MICRO), "vae").eval()


def test_the_features_are_two_for_each_latent_channel_and_no_function_of_the_batch(networks):
    unet, vae = networks
    one, two = (sample_features(unet, vae, 8, 5, size, 2, seed=0) for size in (5, 2))
    assert one.shape == (5, 2 * vae.config.latent_channels)
    assert one.isfinite().all()
    assert torch.allclose(one, two, atol=1e-5)  # float32 convolutions of another batch


def test_a_network_is_at_distance_0_from_itself_and_not_from_another(networks):
    unet, vae = networks
    torch.manual_seed(1)
    other = base_unet(str(MICRO)).eval()
    own = sample_features(unet, vae, 8, 12, 12, 2, seed=0)
    assert frechet_distance(own, own) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(own, sample_features(other, vae, 8, 12, 12, 2, seed=0)) > 1e-3
    assert math.isfinite(frechet_distance(own, own))
