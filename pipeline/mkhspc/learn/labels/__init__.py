"""Labels: read, matched with cells, resolved into training data."""
