"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("function-runtime")
    except PackageNotFoundError:
        return "unknown"
