"""The toy model and photo for every test of this folder."""

from toy_model import make_model, photo, toy_model  # noqa: F401
