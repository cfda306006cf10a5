"""Elastic layers, blocks and supernets: weights shared by all subnets, sliced by an argument, never by state."""
