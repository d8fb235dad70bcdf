"""Trained models: what is done with runs that have ended: merging, calibration, export."""
