"""The head learns on the device: from labelled kept samples and a memory, numpy alone."""
