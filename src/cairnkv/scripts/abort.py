"""The exception that ends a script, whatever the script catches."""


class ScriptAbort(BaseException):
    """The end of a script from outside: no script and no handler of `Exception` catches it."""
