"""From a CZI file to tissue, a calibration and a plan of tiles."""
