"""The embedded model and data: made locally, seeded, fingerprinted, so that everything can run without a download."""
