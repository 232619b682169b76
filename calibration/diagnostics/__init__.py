"""Why an INT8 file answers wrongly: hard weights, broken blocks, scaled channels."""
