"""The Application Phase at work: samples in, verdicts, kept samples out. No torch."""
