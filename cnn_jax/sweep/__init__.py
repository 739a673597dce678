"""SWEEP: trains a config with many values of some fields, and compares them."""
