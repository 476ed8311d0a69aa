"""Weights of published models: catalogue, cache, download."""
