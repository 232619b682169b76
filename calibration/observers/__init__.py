"""Run the float model on calibration images and gather what later steps need."""
