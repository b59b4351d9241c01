"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a configuration, a command line.

    The message is one line: what was expected, what came, where (file and row, or key), and how to
    fix it. The command-line tools print it without a traceback and exit with code 2.
    """
