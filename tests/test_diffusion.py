import pytest
import torch
from diffusers import DDIMScheduler

from tocsr.diffusion import (
    NoiseSchedule,
    add_noise,
    conditioned,
    ddim_sample,
    denoising_loss,
    predict_clean,
    sample_noise,
    sample_timesteps,
    sr_denoising_loss,
    velocity,
)

SCHEDULE = NoiseSchedule()
CLEAN = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
TIMESTEP = torch.tensor([0, 500, 999])


def reference_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def toy_denoiser(noisy, timestep):
    return torch.tanh(noisy) * (0.3 + timestep.view(-1, 1, 1, 1) / 2000)


def test_the_schedule_is_stable_diffusions():
    torch.testing.assert_close(
        SCHEDULE.alphas_cumprod, reference_scheduler().alphas_cumprod, rtol=1e-5, atol=0
    )


def test_the_last_step_multiplies_an_error_in_the_noise_by_about_14_6():
    assert 1 / SCHEDULE.alphas_cumprod[-1].sqrt().item() == pytest.approx(14.6, abs=0.05)


def test_noising_agrees_with_diffusers():
    ours = add_noise(SCHEDULE, CLEAN, NOISE, TIMESTEP)
    torch.testing.assert_close(ours, reference_scheduler().add_noise(CLEAN, NOISE, TIMESTEP))


def test_the_clean_latent_is_recovered_from_the_true_noise():
    noisy = add_noise(SCHEDULE, CLEAN, NOISE, TIMESTEP)
    # 1e-5: float32 rounding of unit-variance latents times 14.6
    torch.testing.assert_close(
        predict_clean(SCHEDULE, noisy, NOISE, TIMESTEP), CLEAN, rtol=0, atol=1e-5
    )


def test_a_denoiser_that_knows_the_noise_has_no_loss():
    loss = denoising_loss(lambda z, t: NOISE, SCHEDULE, CLEAN, NOISE, TIMESTEP)
    assert loss == 0


def test_a_denoiser_that_says_zero_has_the_noise_power_as_loss():
    loss = denoising_loss(lambda z, t: 0 * z, SCHEDULE, CLEAN, NOISE, TIMESTEP)
    assert loss == pytest.approx(NOISE.square().mean().item())


def test_the_condition_is_appended_to_the_noisy_latent():
    seen = []
    lr = torch.full_like(CLEAN, 7.0)
    conditioned(lambda z, t: seen.append(z) or z[:, :4], lr)(CLEAN, TIMESTEP)
    assert torch.equal(seen[0], torch.cat([CLEAN, lr], dim=1))


def test_the_sr_loss_is_the_denoising_loss_of_the_conditioned_network():
    denoise = lambda z, t: z[:, :4] * z[:, 4:]  # noqa: E731
    ours = sr_denoising_loss(denoise, SCHEDULE, CLEAN, CLEAN + 1, NOISE, TIMESTEP)
    plain = denoising_loss(lambda z, t: z * (CLEAN + 1), SCHEDULE, CLEAN, NOISE, TIMESTEP)
    assert ours == plain


@pytest.mark.parametrize("num_denoise_steps", [1, 4, 15, 50])
def test_timesteps_are_spaced_as_diffusers_trailing_ones(num_denoise_steps):
    scheduler = reference_scheduler()
    scheduler.set_timesteps(num_denoise_steps)
    assert SCHEDULE.trailing_timesteps(num_denoise_steps) == scheduler.timesteps.tolist()


def reference_ddim(num_denoise_steps: int, own_list: bool) -> tuple[torch.Tensor, list[int]]:
    """z_0 by diffusers' DDIM, and the timesteps between which it steps.

    Where the number does not divide 1000, diffusers steps from t to t - 1000 // number, which is
    not the next timestep of its own list; `own_list` makes it step there.
    """
    scheduler = reference_scheduler()
    scheduler.set_timesteps(num_denoise_steps)
    timesteps, noisy, landed = scheduler.timesteps.tolist(), NOISE, []
    for now, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
        if own_list:  # a step of its own length
            scheduler.register_to_config(num_train_timesteps=now - following)
            scheduler.num_inference_steps = 1
        landed.append(now - scheduler.config.num_train_timesteps // scheduler.num_inference_steps)
        prediction = toy_denoiser(noisy, torch.full((3,), now))
        noisy = scheduler.step(prediction, now, noisy).prev_sample
    return noisy, landed


@pytest.mark.parametrize("num_denoise_steps", [1, 2, 4, 20, 50])
def test_ddim_agrees_with_diffusers(num_denoise_steps):
    ours = ddim_sample(toy_denoiser, SCHEDULE, NOISE, num_denoise_steps)
    theirs, _ = reference_ddim(num_denoise_steps, own_list=False)
    # the last step lands on z_0 itself (alpha_bar = 1); 2e-4: float32 over 50 steps
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("num_denoise_steps", [3, 7, 15, 30])
def test_where_steps_do_not_divide_1000_ddim_goes_through_diffusers_own_timesteps(
    num_denoise_steps,
):
    ours = ddim_sample(toy_denoiser, SCHEDULE, NOISE, num_denoise_steps)
    theirs, landed = reference_ddim(num_denoise_steps, own_list=True)
    assert landed == [*SCHEDULE.trailing_timesteps(num_denoise_steps)[1:], -1]
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)
    assert reference_ddim(num_denoise_steps, own_list=False)[1] != landed


def test_clipping_bounds_the_sample():
    assert ddim_sample(toy_denoiser, SCHEDULE, 50 * NOISE, 4, clip=2.0).abs().max() <= 2.0


def test_noise_is_a_function_of_seed_and_index_alone():
    batch = sample_noise((4, 8, 8), 0, [5, 6, 7], "noise")
    assert torch.equal(batch[1], sample_noise((4, 8, 8), 0, [6], "noise")[0])


def test_noise_differs_between_seeds_purposes_and_indices():
    samples = [
        sample_noise((2,), seed, [index], purpose)
        for seed in (0, 1)
        for index in (0, 1)
        for purpose in ("noise", "start")
    ]
    assert len({tuple(s.flatten().tolist()) for s in samples}) == 8


def test_timesteps_cover_the_schedule_evenly():
    timesteps = sample_timesteps(SCHEDULE, 0, list(range(4000))).double()
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    # 4 standard errors of the mean of 4000 uniform draws
    assert abs(timesteps.mean() - 499.5) < 4 * 288.7 / 4000**0.5


def test_the_velocity_gives_the_clean_latent_back_without_amplification():
    noisy = add_noise(SCHEDULE, CLEAN, NOISE, TIMESTEP)
    true = velocity(SCHEDULE, CLEAN, NOISE, TIMESTEP)
    clean = predict_clean(SCHEDULE, noisy, true, TIMESTEP, "velocity")
    torch.testing.assert_close(clean, CLEAN, rtol=0, atol=1e-5)
    off = predict_clean(SCHEDULE, noisy, true + 1, TIMESTEP, "velocity")
    assert (off - clean).abs().max() <= 1.0001


def test_the_velocity_is_diffusers():
    ours = velocity(SCHEDULE, CLEAN, NOISE, TIMESTEP)
    scheduler = reference_scheduler()
    torch.testing.assert_close(ours, scheduler.get_velocity(CLEAN, NOISE, TIMESTEP))


def test_ddim_of_velocities_agrees_with_ddim_of_the_noise_they_mean():
    def noise_of(noisy, timestep):
        alpha_bar = SCHEDULE.alpha_bar(timestep)
        v = toy_denoiser(noisy, timestep)
        return alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * noisy

    by_velocity = ddim_sample(toy_denoiser, SCHEDULE, NOISE, 4, prediction="velocity")
    # 1e-3: the noise form divides by sqrt(abar_T)
    torch.testing.assert_close(
        by_velocity, ddim_sample(noise_of, SCHEDULE, NOISE, 4), rtol=1e-3, atol=1e-3
    )


def test_a_network_that_predicts_the_clean_latent_adds_to_the_condition():
    denoise = conditioned(lambda z, t: 0 * z[:, :4], CLEAN, "clean")
    assert torch.equal(denoise(NOISE, TIMESTEP), CLEAN)
    assert torch.equal(ddim_sample(denoise, SCHEDULE, NOISE, 4, prediction="clean"), CLEAN)
    assert denoising_loss(denoise, SCHEDULE, CLEAN, NOISE, TIMESTEP, "clean") == 0
