"""Reading CZI: directory, metadata, mosaic, decoding, order of reading."""
