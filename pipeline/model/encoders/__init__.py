"""Encoders: transformers' audio encoders, with their features computed on the device. One file a family."""
