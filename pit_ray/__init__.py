"""pit-ray: language models that learn from preference data to improve a given response (PIT, arXiv 2310.00898)."""

__version__ = "0.1.0"
