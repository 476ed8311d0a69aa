"""Expert labels to classifiers to scores."""
