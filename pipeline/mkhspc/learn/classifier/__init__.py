"""A classifier: models, fit, card, file."""
