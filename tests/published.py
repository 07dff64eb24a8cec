"""What RingCentral has published, where it lies beside this repository: none of it is ours to copy."""

from __future__ import annotations

from pathlib import Path

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
SAMPLES = SHARED / "samples"
