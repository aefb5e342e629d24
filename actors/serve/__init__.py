"""`pit-ray serve`: the improvers of a finished run behind an OpenAI-compatible API, on Ray Serve."""
