"""From what was observed to one range per tensor; the calibration table and its cache."""
