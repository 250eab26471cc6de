"""Scores of inputs: free energy, refinement, typicality, calibration, detection."""
