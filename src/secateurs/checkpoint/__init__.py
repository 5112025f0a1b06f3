"""Checkpoint: what is in a file of weights, each tensor read only when asked for; safetensors without torch."""
