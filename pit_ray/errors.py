"""The three errors a user sees: what is wrong, where, and the nearest right thing."""


class PitRayError(Exception):
    """Base of every error whose message is meant for the user; the command prints it without a traceback."""


class ConfigError(PitRayError):
    """The configuration is wrong; the message names the key and the nearest valid value."""


class DataError(PitRayError):
    """The data or a model folder is wrong; the message names the file and the line or column."""


class TrainingError(PitRayError):
    """Training cannot go on (NaN, KL limit, no tokens to learn from); the message names the stage and step."""


class InfraError(PitRayError):
    """A process, machine or engine failed; the message names it and the last thing it did."""
