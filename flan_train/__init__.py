"""Instruction finetuning on JAX: the Flan 2022 system, from raw files to a chosen checkpoint."""

__version__ = "0.1.0"
