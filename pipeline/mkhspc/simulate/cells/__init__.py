"""The cells of a simulated marrow: their kinds, parts and shapes."""
