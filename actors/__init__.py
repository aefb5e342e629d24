"""The deployment: Ray actors that fill the roles of pit_ray with vLLM and DeepSpeed, and the command `pit-ray`."""
