"""TOC-SR (arXiv 2605.02767): compact latent diffusion that upscales a photo in one step."""

__version__ = "0.1.0"
