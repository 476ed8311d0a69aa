"""Reading CZI: directory, mosaic, order of reading, decoding."""
