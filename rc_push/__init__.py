"""rc-push: RingCentral events over push channels, stored durably, handed to your handlers."""

__version__ = "0.1.0"
