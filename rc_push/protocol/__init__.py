"""RingCentral's protocols without I/O: text in, facts out. No socket, no clock, no task, no randomness in here."""
