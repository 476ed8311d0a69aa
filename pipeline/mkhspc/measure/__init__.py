"""Numbers and crops of detected cells: shape, colour, texture, lossless images."""
