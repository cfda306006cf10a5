"""What early stopping saves, and whether it loses points of the front."""
