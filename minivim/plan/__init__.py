"""Compile for a machine that is not there."""
