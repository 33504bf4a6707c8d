"""Shows what a cached mixture gives to training."""
