"""Compare outputs and time runs: parity, SQNR, agreement, confidence intervals, latency."""
