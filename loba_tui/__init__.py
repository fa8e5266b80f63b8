"""LOBA-Trainer: small, precise surgery on text-to-image diffusion models."""

__version__ = "0.1.0"
