"""torch.compile on the device against eager: a corpus of functions, torch's operator database, models."""
