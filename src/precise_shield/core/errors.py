"""Errors a user can act on. The command line prints these without a traceback.

Every message says what was seen, which rule it broke, and what to do.
"""


class UserError(Exception):
    """Something the caller can fix."""


class ConfigError(UserError):
    """A configuration does not say a runnable thing."""


class DataError(UserError):
    """A row, a picture or a split breaks a rule of the data format."""


class EmptyCellError(DataError):
    """A cell that is needed holds no examples."""


class UnsupportedModelError(UserError):
    """No layout is registered for this architecture."""


class LayoutMismatchError(UserError):
    """A registered layout does not describe the model it was applied to."""


class LoadingError(UserError):
    """A model, tokenizer or processor cannot be loaded as it is on disk."""


class DeadTapError(UserError):
    """A tap was attached, the block ended, and no forward pass reached it."""


class EmptySetError(UserError):
    """A neuron set that is needed holds no neurons."""


class NumericError(UserError):
    """A value that has to be finite is NaN or infinite."""


class ReceiptError(UserError):
    """Weights moved that must not move, or a delta meets a model it was not made for."""


class GateError(UserError):
    """An aligned model is worse than the stated limits, so it is not written."""


class StoreError(UserError):
    """An artefact cannot be written, or what is on disk does not fit what made it."""


class ServerError(UserError):
    """A server refuses, or does not answer."""


class JudgeError(UserError):
    """A judge cannot be asked, or its server does not answer."""


class LostProcessError(UserError):
    """Another process of the same launch has ended, so this one cannot go on."""


class LaunchError(UserError):
    """A launch of several processes cannot do what it was started for."""
