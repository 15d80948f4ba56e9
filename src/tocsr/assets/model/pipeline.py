"""Lets diffusers load this folder; needs tocsr[torch]."""

from tocsr.deploy.diffusers_pipeline import UpscalePipeline

__all__ = ["UpscalePipeline"]
