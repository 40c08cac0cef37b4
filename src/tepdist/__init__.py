"""TePDist: automatic distributed training of StableHLO programs."""

__version__ = "0.1.0"
