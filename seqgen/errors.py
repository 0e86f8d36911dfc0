"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """Bad input, configuration or file, told in one sentence that says what to do.

    The command lines print the sentence and exit with code 1; a stack trace is shown only under ``HYDRA_FULL_ERROR=1``.
    """
