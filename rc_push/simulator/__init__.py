"""A RingCentral on loopback: shipped, scriptable, the test double and the demo.

What RingCentral does not document is a knob (`knobs.py`), never a guess. Knows nothing of the daemon.
"""
