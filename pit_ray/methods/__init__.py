"""A method is a short list of stages over the same roles."""
